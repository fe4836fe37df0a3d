"""Log-probabilities of many pairs, without gradients."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..data.tokenize import TokenizedPair
from .pair_logps import Forward


def score_pairs(
    model: nn.Module,
    pairs: Sequence[TokenizedPair],
    forward: Forward,
    batches: Iterable[Sequence[int]],
    progress: Callable[[int], None] = lambda n: None,
) -> np.ndarray:
    """Score every pair with the model as it is, in evaluation mode.

    Args:
        batches: row numbers, one list per batch, every row once. The same batches give the same rounding.
        progress: called with the number of pairs just scored.

    Returns:
        float32 (n, 2), nats: chosen and rejected, in the order of `pairs`.
    """
    scores = np.zeros((len(pairs), 2), np.float32)
    for rows, scored in batch_scores(model, pairs, forward, batches):
        scores[rows] = scored
        progress(len(rows))
    return scores


def batch_scores(
    model: nn.Module, pairs: Sequence[TokenizedPair], forward: Forward, batches: Iterable[Sequence[int]]
) -> Iterator[tuple[Sequence[int], np.ndarray]]:
    """The rows of each batch with their scores, float32 (B, 2) as in `score_pairs`, as soon as known."""
    training = model.training
    model.eval()
    try:
        for rows in batches:
            logps = forward.score(model, forward.build([pairs[i] for i in rows]), gradient=False)
            mx.eval(logps)
            yield rows, np.array(logps).reshape(2, -1).T
    finally:
        model.train(training)


def singles(pairs: Sequence[TokenizedPair]) -> list[list[int]]:
    """One batch for every row."""
    return [[i] for i in range(len(pairs))]
