"""Alignment by optimal transport: losses on the distribution of margins, not on the margin of each pair."""

import mlx.core as mx

from .pairwise import FLIPPED, smoothed
from .registry import PairLogps, option, register_loss

_SOURCE = "Melnyk et al. 2024, arXiv:2406.05882"
_OPTIONS = {"label_smoothing": option(FLIPPED, least=0, below=0.5)}


@register_loss("aot", source=_SOURCE, of="logps", window=True, vanishes=True, options=_OPTIONS)
def aot(pairs: PairLogps, beta: mx.array, *, label_smoothing: float = 0.0) -> mx.array:
    """Sorted log-ratios of chosen over rejected, policy against reference: (B,), not ordered by pair."""
    policy = mx.sort(pairs.chosen - pairs.rejected)
    reference = mx.sort(pairs.reference_chosen - pairs.reference_rejected)
    return smoothed(beta * (policy - reference), label_smoothing)


@register_loss("aot_unpaired", source=_SOURCE, of="logps", window=True, vanishes=True, options=_OPTIONS)
def aot_unpaired(pairs: PairLogps, beta: mx.array, *, label_smoothing: float = 0.0) -> mx.array:
    """Sorted log-ratios to the reference, chosen against rejected: (B,), not ordered by pair."""
    chosen, rejected = mx.sort(pairs.chosen_logratios), mx.sort(pairs.rejected_logratios)
    return smoothed(beta * (chosen - rejected), label_smoothing)
