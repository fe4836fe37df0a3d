"""Pairs to padded arrays in few shapes, and the order in which an epoch sees them."""

from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from .tokenize import TokenizedPair

_BUCKET = 32
"""Lengths are rounded up to this many tokens, so that a run has few shapes."""


class PairBatch(NamedTuple):
    """B pairs stacked: chosen rows first, rejected rows below, right-padded with 0.

    prompt [1 2], chosen [3 4], rejected [5]  ->  inputs    [[1 2 3], [1 2 0]]
                                                  positions [[1 2], [1 2]]
                                                  targets   [[3 4], [5 0]]
                                                  mask      [[1 1], [1 0]]

    `inputs` (2B, T) int32; `positions` (2B, C): where in `inputs` the token before each target stands;
    `targets` (2B, C); `mask` (2B, C) bool, true on completion tokens.
    """

    inputs: mx.array
    positions: mx.array
    targets: mx.array
    mask: mx.array


def build_batch(pairs: Sequence[TokenizedPair], bucket: int = _BUCKET) -> PairBatch:
    """Stack pairs; T and C are rounded up to multiples of `bucket`."""
    branches = [(p.prompt, p.chosen) for p in pairs] + [(p.prompt, p.rejected) for p in pairs]
    length = _round_up(max(len(p) + len(c) for p, c in branches) - 1, bucket)
    width = _round_up(max(len(c) for _, c in branches), bucket)
    inputs = np.zeros((len(branches), length), np.int32)
    targets = np.zeros((len(branches), width), np.int32)
    mask = np.zeros((len(branches), width), bool)
    positions = np.zeros((len(branches), width), np.int32)
    for row, (prompt, completion) in enumerate(branches):
        tokens = np.concatenate([prompt, completion])
        inputs[row, : len(tokens) - 1] = tokens[:-1]
        targets[row, : len(completion)] = completion
        mask[row, : len(completion)] = True
        positions[row] = np.minimum(len(prompt) - 1 + np.arange(width), length - 1)
    return PairBatch(*(mx.array(a) for a in (inputs, positions, targets, mask)))


def _round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def epoch_windows(
    pairs: Sequence[TokenizedPair], window: int, micro_batch: int, seed: int, epoch: int
) -> list[list[list[int]]]:
    """The epoch's pairs, each exactly once: windows of micro-batches of row numbers.

    Rows are shuffled by (seed, epoch) and cut into windows of `window` pairs, the last one maybe
    shorter; inside a window they are sorted by length, so that a micro-batch holds pairs of like
    length. What a window holds does not depend on `micro_batch`.
    """
    order = np.random.default_rng([seed, epoch]).permutation(len(pairs)).tolist()
    windows = [order[i : i + window] for i in range(0, len(order), window)]
    return [micro_batches(pairs, rows, micro_batch) for rows in windows]


def micro_batches(pairs: Sequence[TokenizedPair], rows: Sequence[int], size: int) -> list[list[int]]:
    """Rows sorted by length and cut into groups of at most `size`."""
    ordered = sorted(rows, key=lambda i: (pairs[i].length, i))
    return [ordered[i : i + size] for i in range(0, len(ordered), size)]
