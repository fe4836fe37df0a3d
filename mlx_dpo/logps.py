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
    """Log-probability of each completion: token log-probabilities summed where mask is 1, float32 (N,)."""
    return mx.where(mask, token_logps(logits, targets), 0.0).sum(axis=-1)
