"""Log-probabilities of many pairs, without gradients."""

from collections.abc import Callable, Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from .data.batches import build_batch, micro_batches
from .data.tokenize import TokenizedPair
from .models.forward import Forward


def score_pairs(
    model: nn.Module,
    pairs: Sequence[TokenizedPair],
    forward: Forward,
    batch_size: int,
    progress: Callable[[int], None] = lambda n: None,
) -> np.ndarray:
    """Score every pair with the model as it is, in evaluation mode.

    Args:
        progress: called with the number of pairs just scored.

    Returns:
        float32 (n, 2), nats: chosen and rejected, in the order of `pairs`.
    """
    training = model.training
    model.eval()
    scores = np.zeros((len(pairs), 2), np.float32)
    for rows in micro_batches(pairs, range(len(pairs)), batch_size):
        logps = forward.score(model, build_batch([pairs[i] for i in rows]))
        mx.eval(logps)
        scores[rows] = np.array(logps).reshape(2, len(rows)).T
        progress(len(rows))
    model.train(training)
    return scores
