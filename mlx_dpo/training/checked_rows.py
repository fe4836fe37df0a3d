"""Which rows the checks before the first update look at, and how much of each."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..data.tokenize import TokenizedPair, pair_lengths


def spread_rows(pairs: Sequence[TokenizedPair], count: int) -> list[int]:
    """Row numbers from the shortest row to the longest, evenly spread, without repeats."""
    order = np.argsort(pair_lengths(pairs), kind="stable")
    return list(
        dict.fromkeys(int(order[round(k * (len(order) - 1) / max(1, count - 1))]) for k in range(count))
    )


def sample_rows(pairs: Sequence[TokenizedPair]) -> list[int]:
    """Three rows of the shorter half, the shortest first: a batch of them fits wherever training fits."""
    order = np.argsort(pair_lengths(pairs), kind="stable")
    return list(dict.fromkeys(int(order[k * (len(order) - 1) // 4]) for k in range(3)))


def sample_pairs(pairs: Sequence[TokenizedPair]) -> list[TokenizedPair]:
    """The sample rows, shortened to the end of their prompts and the start of their answers."""
    return [shortened(pairs[row], answer=32) for row in sample_rows(pairs)]


def shortened(pair: TokenizedPair, prompt: int = 76, answer: int = 16) -> TokenizedPair:
    """The pair with the end of its prompt and the start of its answers; the defaults suit every check."""
    return replace(
        pair, prompt=pair.prompt[-prompt:], chosen=pair.chosen[:answer], rejected=pair.rejected[:answer]
    )


def short_row(pairs: Sequence[TokenizedPair]) -> TokenizedPair:
    """A part of the shortest row, for checks that any token can decide."""
    return shortened(pairs[sample_rows(pairs)[0]], 24, 12)


def longest_row(pairs: Sequence[TokenizedPair], room: int) -> TokenizedPair:
    """The longest row: its longer answer as chosen, two tokens of it as rejected; `room` + 2 tokens."""
    pair = pairs[spread_rows(pairs, 2)[-1]]
    answer = max(pair.chosen, pair.rejected, key=len)[: max(END, room // 2)]
    prompt = pair.prompt[-max(2, room - len(answer)) :]
    return replace(pair, prompt=prompt, chosen=answer, rejected=answer[:2])


END = 32
"""Number of tokens of the longest row that are compared: the last ones, which depend on all others."""
