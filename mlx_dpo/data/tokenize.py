"""Pairs of text to pairs of tokens; the one truncation rule."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..console import plural
from ..errors import DpoError, first_ten
from ..records import Message, Preference
from .conversation_tokens import end_of_turn, pair_tokens
from .messages import earlier_reasoning


@dataclass(frozen=True)
class TokenizedPair:
    """Token ids, int32 (P,), (C,) and (R,); whole completions that fit end with the end-of-turn."""

    prompt: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray
    where: str

    @property
    def tokens(self) -> int:
        """Distinct tokens: the prompt once, both completions."""
        return len(self.prompt) + len(self.chosen) + len(self.rejected)

    @property
    def length(self) -> int:
        """Tokens of the longer branch."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))


@dataclass(frozen=True)
class TokenCounts:
    """What tokenising did to a file's rows.

    Of the `kept` rows, `cut` were cut to max_length and `cut_off` have an answer that is marked as cut off.
    In `forgotten` rows the chat template leaves out reasoning of earlier turns, as it does when the model is
    asked.
    """

    rows: int
    kept: int
    cut: int
    same: int
    answers: bool = False
    cut_off: int = 0
    forgotten: int = 0

    def __str__(self) -> str:
        parts = [f"{plural(self.rows, 'answer' if self.answers else 'pair')}: {self.kept:,} kept"]
        if self.cut:
            parts.append(f"{self.cut:,} of them cut to max_length")
        if self.cut_off:
            parts.append(f"{self.cut_off:,} with a cut-off answer (scored without an end token)")
        if self.forgotten:
            what = "without the reasoning of earlier turns (the template leaves it out)"
            parts.append(f"{self.forgotten:,} {what}")
        if self.same:
            parts.append(f"{self.same:,} dropped (identical answers)")
        return ", ".join(parts)


def tokenize_pairs(
    rows: Sequence[Preference], tokenizer: Any, max_length: int
) -> tuple[list[TokenizedPair], TokenCounts]:
    """Tokenise every row.

    The rule of truncation: the prompt is never cut, and both completions keep at most
    max_length − P tokens from their start. An answer that is marked as cut off gets no end-of-turn.
    Pairs whose completions are the same tokens, from the start or after the cut, are dropped and counted.

    Raises:
        DpoError: prompts leave no room for a completion (the first ten are named), or no pair is left.
    """
    work = RowTokenizer(tokenizer, max_length)
    pairs = [pair for row in rows if (pair := work.pair(row))]
    return pairs, work.counts()


class RowTokenizer:
    """Tokenises rows one by one by the rule of `tokenize_pairs`, and counts them."""

    def __init__(self, tokenizer: Any, max_length: int, *, answers: bool = False):
        """`answers`: the rows are answers to learn, each as a pair with itself, which is kept."""
        self._tokenizer, self._max_length, self._end = tokenizer, max_length, end_of_turn(tokenizer)
        self._answers = answers
        self._too_long: list[tuple[str, int]] = []
        self._rows = self._kept = self._cut = self._cut_off = self._same = self._same_once_cut = 0
        self._forgotten = 0
        self._where = ""

    def pair(self, row: Preference) -> TokenizedPair | None:
        """The row as tokens; None if its two answers are the same or its prompt is too long.

        Raises:
            DpoError: the chat template refuses the row.
        """
        self._rows += 1
        self._where = row.where
        try:
            prompt, branches = pair_tokens(
                self._tokenizer, row.prompt, row.answers, self._end, row.tools, self._max_length
            )
        except DpoError as error:
            raise error.instead(where=row.where) from None
        check_known(self._tokenizer, [*prompt, *branches[0], *branches[1]], row.where)
        room = self._max_length - len(prompt)
        if room < 2:
            self._too_long.append((row.where, len(prompt)))
            return None
        chosen, rejected = (np.array(b[:room], dtype=np.int32) for b in branches)
        if not self._answers and np.array_equal(chosen, rejected):
            self._same += 1
            self._same_once_cut += branches[0] != branches[1]
            return None
        self._kept += 1
        self._cut += any(len(b) > room for b in branches)
        self._cut_off += row.chosen_cut or row.rejected_cut
        self._forgotten += forgets(self._tokenizer, row.prompt, prompt)
        return TokenizedPair(np.array(prompt, dtype=np.int32), chosen, rejected, row.where)

    def counts(self) -> TokenCounts:
        """What was done to all rows.

        Raises:
            DpoError: prompts leave no room for a completion (the first ten are named), or no pair is left.
        """
        if self._too_long:
            raise prompts_too_long(self._too_long, self._max_length)
        if not self._kept:
            within = f" within data.max_length ({self._max_length:,} tokens)" if self._same_once_cut else ""
            raise DpoError(
                f"no pair of {self._rows} is left: chosen and rejected are the same in all of them",
                where=self._where.rsplit(":", 1)[0],
                hint=f"rejected answers must differ from the chosen ones{within}",
                code="same-once-cut" if self._same_once_cut else "identical-answers",
            )
        return TokenCounts(
            self._rows, self._kept, self._cut, self._same, self._answers, self._cut_off, self._forgotten
        )


def forgets(tokenizer: Any, prompt: Sequence[Message], tokens: Sequence[int]) -> bool:
    """Whether the template leaves reasoning of earlier turns out of the prompt's tokens."""
    reasons = earlier_reasoning(prompt)
    return bool(reasons) and reasons not in tokenizer.decode(tokens)


def check_known(tokenizer: Any, tokens: Sequence[int], where: str) -> None:
    """Check that the model's embedding has a row for each of the tokens; see `models.tokenizer`.

    Raises:
        DpoError: a token has no row.
    """
    rows = getattr(tokenizer, "embedded_tokens", None)
    largest = max(tokens, default=0)
    if rows is not None and largest >= rows:
        raise DpoError(
            f"contains the token {tokenizer.convert_ids_to_tokens(largest)!r} ({largest}), which is beyond "
            f"the {rows:,} rows of the model's embedding",
            where=where,
            hint="remove this token from the row, or use a model whose embedding includes it",
            code="unknown-token",
        )


def pair_sizes(pairs: Sequence[TokenizedPair]) -> np.ndarray:
    """Tokens of every pair's prompt, chosen and rejected, int (n, 3): from the store, or counted."""
    sizes = getattr(pairs, "sizes", None)
    if sizes is None:
        counted = [(len(p.prompt), len(p.chosen), len(p.rejected)) for p in pairs]
        sizes = np.array(counted, np.int32).reshape(-1, 3)
    return sizes


def pair_lengths(pairs: Sequence[TokenizedPair]) -> np.ndarray:
    """Tokens of every pair's longer branch, int (n,)."""
    sizes = pair_sizes(pairs)
    return sizes[:, 0] + sizes[:, 1:].max(axis=1, initial=0)


def prompts_too_long(rows: Sequence[tuple[str, int]], max_length: int) -> DpoError:
    """What to raise for rows (place, tokens of the prompt) that leave no room for an answer."""
    (where, tokens), longest = rows[0], max(n for _, n in rows)
    file = where.rsplit(":", 1)[0]
    others = first_ten([w.removeprefix(f"{file}:") for w, _ in rows[1:]])
    more = f"; also too long: lines {others}" if others else ""
    return DpoError(
        f"the prompt has {tokens:,} tokens, but data.max_length is {max_length:,}{more}",
        where=where,
        hint=f"set data.max_length to {longest + 2:,} or more, or shorten or remove these rows",
        code="prompt-too-long",
    )
