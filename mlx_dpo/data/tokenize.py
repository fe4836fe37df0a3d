"""Pairs of text to pairs of tokens; the one truncation rule."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DpoError, first_ten
from ..records import Preference
from .templates import completion_tokens, end_of_turn, prompt_tokens


@dataclass(frozen=True)
class TokenizedPair:
    """Token ids, int32 (P,), (C,) and (R,); completions end with the end-of-turn unless they were cut."""

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
    """What tokenising did to a file's rows."""

    rows: int
    kept: int
    cut: int
    same: int

    def __str__(self) -> str:
        parts = [f"{self.rows:,} pairs: {self.kept:,} kept"]
        if self.cut:
            parts.append(f"{self.cut:,} of them cut to max_length")
        if self.same:
            parts.append(f"{self.same:,} dropped (identical answers)")
        return ", ".join(parts)


def tokenize_pairs(
    rows: Sequence[Preference], tokenizer: Any, max_length: int
) -> tuple[list[TokenizedPair], TokenCounts]:
    """Tokenise every row.

    The rule of truncation: the prompt is never cut, and both completions keep at most
    max_length − P tokens from their start. Pairs whose completions are the same tokens, from the
    start or after the cut, are dropped and counted.

    Raises:
        DpoError: prompts that leave no room for a completion, the first ten named; or nothing is left.
    """
    end = end_of_turn(tokenizer)
    pairs, too_long, cut, same, same_once_cut = [], [], 0, 0, 0
    for row in rows:
        try:
            prompt = prompt_tokens(tokenizer, row.prompt)
            branches = [completion_tokens(tokenizer, row.prompt, a, end) for a in (row.chosen, row.rejected)]
        except DpoError as error:
            raise DpoError(error.what, where=row.where, hint=error.hint) from None
        room = max_length - len(prompt)
        if room < 2:
            too_long.append((row.where, len(prompt)))
            continue
        chosen, rejected = (np.array(b[:room], dtype=np.int32) for b in branches)
        if np.array_equal(chosen, rejected):
            same += 1
            same_once_cut += branches[0] != branches[1]
            continue
        cut += any(len(b) > room for b in branches)
        pairs.append(TokenizedPair(np.array(prompt, dtype=np.int32), chosen, rejected, row.where))
    if too_long:
        raise prompts_too_long(too_long, max_length)
    if not pairs:
        within = f" within data.max_length, {max_length:,} tokens" if same_once_cut else ""
        raise DpoError(
            f"no pair is left of {len(rows)}: chosen and rejected are the same in all",
            where=rows[0].where.rsplit(":", 1)[0],
            hint=f"rejected answers must differ from the chosen ones{within}",
        )
    return pairs, TokenCounts(len(rows), len(pairs), cut, same)


def prompts_too_long(rows: Sequence[tuple[str, int]], max_length: int) -> DpoError:
    """What to raise for rows (place, tokens of the prompt) that leave no room for an answer."""
    (where, tokens), longest = rows[0], max(n for _, n in rows)
    file = where.rsplit(":", 1)[0]
    others = first_ten([w.removeprefix(f"{file}:") for w, _ in rows[1:]])
    more = f"; so have lines {others}" if others else ""
    return DpoError(
        f"the prompt has {tokens:,} tokens, data.max_length is {max_length:,}{more}",
        where=where,
        hint=f"set data.max_length to {longest + 2:,} or more, or shorten or remove these rows",
    )
