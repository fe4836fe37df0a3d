"""Distances to the reference other than the reverse KL (Wang et al. 2024, arXiv:2309.16240)."""

import math
from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from .registry import PairLogps

_MOST = 80.0
"""Largest exponent: above it, a sum of two terms would overflow in float32."""


def _expm1(x: mx.array) -> mx.array:
    return mx.expm1(mx.minimum(x, _MOST))


def _alpha(ratios: mx.array, alpha: float) -> mx.array:
    return ratios if alpha == 1 else _expm1((alpha - 1) * ratios) / (alpha - 1)


DIVERGENCES: dict[str, Callable[[mx.array, float], mx.array]] = {
    "reverse_kl": lambda ratios, alpha: ratios,
    "forward_kl": lambda ratios, alpha: -_expm1(-ratios),
    "js": lambda ratios, alpha: math.log(2) + nn.log_sigmoid(ratios),
    "alpha": _alpha,
}
"""Log-ratios (B,) and alpha to the scores (B,) that replace the log-ratios; 0 if the policy has not moved."""


def diverged(pairs: PairLogps, name: str, alpha: float) -> PairLogps:
    """The pairs with their log-ratios replaced by scores under this divergence."""
    if name == "reverse_kl":
        return pairs
    chosen, rejected = (
        DIVERGENCES[name](ratios, alpha) for ratios in (pairs.chosen_logratios, pairs.rejected_logratios)
    )
    return without_reference(pairs._replace(chosen=chosen, rejected=rejected))


def without_reference(pairs: PairLogps) -> PairLogps:
    """The same pairs with 0 for the reference's log-probabilities."""
    zero = mx.zeros_like(pairs.chosen)
    return pairs._replace(reference_chosen=zero, reference_rejected=zero)
