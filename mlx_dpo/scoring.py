"""Log-probabilities of many pairs, without gradients."""

from collections.abc import Callable, Iterable, Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from .data.batches import build_batch
from .data.tokenize import TokenizedPair
from .models.forward import Forward


def score_pairs(
    model: nn.Module,
    pairs: Sequence[TokenizedPair],
    forward: Forward,
    batches: Iterable[Sequence[int]],
    progress: Callable[[int], None] = lambda n: None,
) -> np.ndarray:
    """Score every pair with the model as it is, in evaluation mode.

    Args:
        batches: row numbers, one list a batch, every row once. The same batches give the same rounding.
        progress: called with the number of pairs just scored.

    Returns:
        float32 (n, 2), nats: chosen and rejected, in the order of `pairs`.
    """
    training = model.training
    model.eval()
    scores = np.zeros((len(pairs), 2), np.float32)
    for rows in batches:
        logps = forward.score(model, build_batch([pairs[i] for i in rows]))
        mx.eval(logps)
        scores[rows] = np.array(logps).reshape(2, -1).T
        progress(len(rows))
    model.train(training)
    return scores
