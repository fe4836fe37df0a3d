"""Losses that look at each pair on its own."""

import mlx.core as mx
import mlx.nn as nn

from .core import PairLogps, register_loss


@register_loss("sigmoid", source="Rafailov et al. 2023, arXiv:2305.18290, eq. 7")
def sigmoid(pairs: PairLogps, beta: mx.array, *, label_smoothing: float = 0.0) -> mx.array:
    """Logistic loss on the scaled margin: the original DPO.

    Args:
        pairs: log-probabilities of B pairs.
        beta: shape () or (B,), > 0.
        label_smoothing: chance that a label is flipped, in [0, 0.5); above 0 this is
            conservative DPO (Mitchell 2023, eq. 3).

    Returns:
        One loss per pair, float32 (B,). The step takes the mean.
    """
    z = beta * pairs.margins
    return -(1 - label_smoothing) * nn.log_sigmoid(z) - label_smoothing * nn.log_sigmoid(-z)
