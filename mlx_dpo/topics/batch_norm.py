"""Batch normalisation with scale 1 and a trained shift, as ECRTM uses it."""

import mlx.core as mx
import mlx.nn as nn

_OLD = 0.9
"""Weight of the old running statistics."""
_EPSILON = 1e-5


class ShiftedBatchNorm(nn.Module):
    """(x − mean) / √(variance + 1e-5) + shift, per column of (B, size).

    Mean and variance are those of the batch in training, and running ones otherwise. The running variance is
    without bias (divided by B − 1), as in PyTorch; `nn.BatchNorm` keeps the biased one.
    """

    def __init__(self, size: int):
        super().__init__()
        self.shift = mx.zeros(size)
        self.running_mean = mx.zeros(size)
        self.running_variance = mx.ones(size)
        self.freeze(keys=["running_mean", "running_variance"])

    def __call__(self, x: mx.array) -> mx.array:
        if not self.training:
            return (x - self.running_mean) * mx.rsqrt(self.running_variance + _EPSILON) + self.shift
        rows = len(x)
        mean = x.mean(axis=0)
        centred = x - mean
        variance = mx.square(centred).mean(axis=0)
        self.running_mean = _moved(self.running_mean, mean)
        self.running_variance = _moved(self.running_variance, variance * (rows / (rows - 1)))
        return centred * mx.rsqrt(variance + _EPSILON) + self.shift


def _moved(old: mx.array, new: mx.array) -> mx.array:
    return _OLD * old + (1 - _OLD) * mx.stop_gradient(new)
