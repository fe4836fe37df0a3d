"""The registry of checks for rows that a run would train on but should not, and the check of one row."""

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ..data.conversation_tokens import end_of_turn
from ..data.tokenize import TokenizedPair, tokenize_pairs
from ..errors import DpoError
from ..records import Preference
from .defects import KINDS, WARNING, Defect, Kind, defect
from .refused_rows import refused


class Context(NamedTuple):
    """What the checks of rows need.

    `max_length`: tokens of prompt and answer; `max_similarity`: 0 to 1, above which two answers are too
    similar; `end`: the end-of-turn token; `special`: matches the text of a special token.
    """

    tokenizer: Any
    max_length: int
    max_similarity: float
    end: int
    special: re.Pattern[str]


class Row(NamedTuple):
    """A pair that a run would train on: its text and its tokens."""

    text: Preference
    pair: TokenizedPair
    context: Context

    def cut_off(self, branch: str) -> bool:
        """Whether this answer is marked as cut off, so that it has no end to check."""
        return getattr(self.text, f"{branch}_cut")


Check = Callable[[Row], str | None]
"""Says what is wrong with the row; None if nothing is."""

CHECKS: dict[str, Check] = {}


def row_check(code: str, meaning: str, remedy: str) -> Callable[[Check], Check]:
    """Register a check of rows under its code, with the meaning of a finding and its remedy."""

    def register(check: Check) -> Check:
        KINDS[code] = Kind(WARNING, meaning, remedy)
        CHECKS[code] = check
        return check

    return register


AnswerCheck = Callable[[str], str | None]
BRANCHES = ("chosen", "rejected")


def answer_check(
    code: str,
    meaning: str,
    remedy: str,
    branches: tuple[str, ...] = BRANCHES,
    *,
    of_ends: bool = False,
) -> Callable[[AnswerCheck], AnswerCheck]:
    """As `row_check`, for a check of one answer's text; it runs on the answers named in `branches`.

    Args:
        of_ends: the check is about how answers end, so answers that are marked as cut off are not checked.
    """

    def register(check: AnswerCheck) -> AnswerCheck:
        def of_row(row: Row) -> str | None:
            checked = [name for name in branches if not (of_ends and row.cut_off(name))]
            return named((name, check(getattr(row.text, name))) for name in checked)

        row_check(code, meaning, remedy)(of_row)
        return check

    return register


def named(found: Iterator[tuple[str, str | None]]) -> str | None:
    """The answers with a finding, in words: "chosen and rejected: ends with 'and the'"."""
    wrong = [(name, what) for name, what in found if what]
    return f"{' and '.join(name for name, _ in wrong)}: {wrong[0][1]}" if wrong else None


def build_context(tokenizer: Any, max_length: int, max_similarity: float) -> Context:
    """What the checks of rows need, for this tokenizer.

    Raises:
        DpoError: the tokenizer has no end-of-turn token.
    """
    end = end_of_turn(tokenizer)
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    spelt = "|".join(re.escape(text) for text in sorted(added, key=len, reverse=True))
    return Context(tokenizer, max_length, max_similarity, end, re.compile(spelt or r"(?!)"))


def tokenised(text: Preference, context: Context) -> TokenizedPair:
    """The row's tokens, as a run would make them.

    Raises:
        DpoError: a run refuses or drops the row.
    """
    (pair,), _ = tokenize_pairs([text], context.tokenizer, context.max_length)
    return pair


def inspected(text: Preference, where: str, context: Context) -> tuple[TokenizedPair | None, list[Defect]]:
    """The tokens of the pair at `where` with its warnings; or None with the reason to refuse or drop it."""
    try:
        row = Row(text, tokenised(text, context), context)
    except DpoError as error:
        return None, [refused(error, where)]
    found = [defect(where, code, what) for code, check in CHECKS.items() if (what := check(row))]
    return row.pair, found
