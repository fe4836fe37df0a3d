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
    return picked - mx.logsumexp(logits, axis=-1)


def completion_logps(logits: mx.array, targets: mx.array, mask: mx.array) -> mx.array:
    """Log-probability of each completion: token log-probabilities times `mask`, summed: float32 (N,)."""
    return sum_scored(token_logps(logits, targets), mask)


def sum_scored(logps: mx.array, mask: mx.array) -> mx.array:
    """Row sums (N,) of float32 log-probabilities (N, C) times `mask`, bool or float32, rounded once.

    Multiples of 1/1024 add up exactly as far as 16,384 nats, and what is left of each is small. Added up one
    after the other, as some libraries do, 1,000 of them would be off by thousandths of a nat.
    """
    logps = mx.where(mask, logps * mask, 0.0)
    coarse = mx.round(logps * 1024) / 1024
    return coarse.sum(axis=-1) + mx.where(mx.isfinite(logps), logps - coarse, 0.0).sum(axis=-1)
