"""Pairs to padded arrays in few shapes, and the order in which an epoch sees them."""

from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from .lazy_sequence import Lazy
from .tokenize import TokenizedPair, pair_lengths

_BUCKET = 32
"""Lengths are rounded up to this many tokens, so that a run has few shapes."""


class PairBatch(NamedTuple):
    """B pairs stacked: chosen rows first, rejected rows below, right-padded with 0.

    prompt [1 2], chosen [3 4], rejected [5]  ->  inputs    [[1 2 3], [1 2 0]]
                                                  positions [[1 2], [1 2]]
                                                  targets   [[3 4], [5 0]]
                                                  mask      [[1 1], [1 0]]
                                                  lengths   [2 1]

    `inputs` (2B, T) int32; `positions` (2B, C): index in `inputs` of the token before each target;
    `targets` (2B, C); `mask` (2B, C): bool, true on completion tokens, or float32, see `build_batch`;
    `lengths` (2B,) int32: completion tokens of each row.
    """

    inputs: mx.array
    positions: mx.array
    targets: mx.array
    mask: mx.array
    lengths: mx.array


def build_batch(
    pairs: Sequence[TokenizedPair], bucket: int = _BUCKET, ld_alpha: float | None = None
) -> PairBatch:
    """Stack pairs; T and C are rounded up to multiples of `bucket`.

    Args:
        ld_alpha: weight of the tokens beyond the length of the pair's shorter completion; None: 1.
    """
    branches = [(p.prompt, p.chosen) for p in pairs] + [(p.prompt, p.rejected) for p in pairs]
    length = _round_up(max(len(p) + len(c) for p, c in branches) - 1, bucket)
    width = _round_up(max(len(c) for _, c in branches), bucket)
    inputs = np.zeros((len(branches), length), np.int32)
    targets = np.zeros((len(branches), width), np.int32)
    mask = np.zeros((len(branches), width), counted_as(ld_alpha))
    full = [min(len(p.chosen), len(p.rejected)) for p in pairs] * 2
    positions = np.zeros((len(branches), width), np.int32)
    for row, (prompt, completion) in enumerate(branches):
        tokens = np.concatenate([prompt, completion])
        inputs[row, : len(tokens) - 1] = tokens[:-1]
        targets[row, : len(completion)] = completion
        mask[row, : len(completion)] = token_weights(len(completion), full[row], ld_alpha)
        positions[row] = np.minimum(len(prompt) - 1 + np.arange(width), length - 1)
    lengths = np.array([len(completion) for _, completion in branches], np.int32)
    return PairBatch(*(mx.array(a) for a in (inputs, positions, targets, mask, lengths)))


def counted_as(ld_alpha: float | None) -> type:
    """Type of the token weights: bool (scored or not), or float32 where tokens count less."""
    return bool if ld_alpha is None else np.float32


def token_weights(length: int, full: int, ld_alpha: float | None) -> np.ndarray:
    """Weights of a completion's tokens (length,): 1 for the first `full` tokens, `ld_alpha` for the others.

    Length-desensitised DPO (Liu et al. 2024, arXiv:2409.06411), for policy and reference alike.
    """
    weights = np.ones(length, counted_as(ld_alpha))
    if ld_alpha is not None:
        weights[full:] = ld_alpha
    return weights


def _round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def epoch_windows(
    pairs: Sequence[TokenizedPair], window: int, micro_batch: int, seed: int, epoch: int
) -> Lazy[list[list[int]]]:
    """The epoch's pairs, each exactly once: windows of micro-batches of row numbers.

    Rows are shuffled by (seed, epoch) and cut into windows of `window` pairs; the last window may be
    shorter. Inside a window they are sorted by length, so that a micro-batch has pairs of similar
    length. The pairs of a window do not depend on `micro_batch`. A window is made when it is needed, so a run
    can start anywhere.
    """
    lengths = pair_lengths(pairs)
    windows = _groups(np.random.default_rng([seed, epoch]).permutation(len(pairs)), window)

    def micro(number: int) -> list[list[int]]:
        return list(_groups(_by_length(lengths, np.array(windows[number])), micro_batch))

    return Lazy(len(windows), micro)


def micro_batches(pairs: Sequence[TokenizedPair], rows: Sequence[int], size: int) -> Lazy[list[int]]:
    """Rows sorted by length and cut into groups of at most `size`."""
    return _groups(_by_length(pair_lengths(pairs), np.array(rows, np.int64)), size)


def _by_length(lengths: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Rows from short to long; rows of the same length by their number."""
    return rows[np.lexsort((rows, lengths[rows]))]


def _groups(rows: np.ndarray, size: int) -> Lazy[list[int]]:
    """Rows in their order, `size` at a time; the last group may be shorter."""
    return Lazy(-(-len(rows) // size), lambda number: rows[number * size : (number + 1) * size].tolist())
