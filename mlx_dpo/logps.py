"""Log-probabilities of completion tokens, in float32 whatever the model's dtype."""

import mlx.core as mx


def token_logps(logits: mx.array, targets: mx.array) -> mx.array:
    """log p(target) at every position.

    Args:
        logits: (N, C, V), any float dtype.
        targets: (N, C) integer token ids.

    Returns:
        float32 (N, C), nats.
    """
    logits = logits.astype(mx.float32)
    picked = mx.take_along_axis(logits, targets[..., None], axis=-1).squeeze(-1)
    return picked - log_sum(logits)


def log_sum(logits: mx.array) -> mx.array:
    """Log of the sum of exponentials over the last axis, (..., V) float32 to (...), nats."""
    return log_sum_and_softmax(logits)[0]


def log_sum_and_softmax(logits: mx.array) -> tuple[mx.array, mx.array]:
    """`log_sum` (...), and softmax (..., V), of float32 logits (..., V).

    Blocks of 256 are summed first, then their sums. MLX on a CPU adds numbers one after the other: over
    49,152 entries, the result would be off by 1e-4, always in the same direction; with two levels, by 2e-6.
    """
    count = logits.shape[-1]
    top = mx.stop_gradient(logits.max(axis=-1, keepdims=True))
    top = mx.where(mx.isfinite(top), top, 0.0)  # inf - inf is NaN
    sizes = blocks = mx.exp(logits - top)
    if count > _BLOCK:
        blocks = mx.pad(sizes, [(0, 0)] * (logits.ndim - 1) + [(0, -count % _BLOCK)])
        blocks = blocks.reshape(*logits.shape[:-1], -1, _BLOCK).sum(axis=-1)
    total = blocks.sum(axis=-1, keepdims=True)
    return (mx.log(total) + top).squeeze(-1), sizes / total


_BLOCK = 256


def completion_logps(logits: mx.array, targets: mx.array, mask: mx.array) -> mx.array:
    """Log-probability of each completion: token log-probabilities times `mask`, summed: float32 (N,)."""
    return sum_scored(token_logps(logits, targets), mask)


def sum_scored(logps: mx.array, mask: mx.array) -> mx.array:
    """Row sums (N,) of float32 log-probabilities (N, C) times `mask`, bool or float32, rounded once.

    Multiples of 1/1024 add up exactly up to 16,384 nats, and the remainders are small. A plain running sum of
    1,000 values, as in some libraries, would be off by thousandths of a nat.
    """
    logps = mx.where(mask, logps * mask, 0.0)
    coarse = mx.round(logps * 1024) / 1024
    return coarse.sum(axis=-1) + mx.where(mx.isfinite(logps), logps - coarse, 0.0).sum(axis=-1)
