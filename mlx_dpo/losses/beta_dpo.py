"""Beta-DPO (Wu et al. 2024, arXiv:2407.08639): one beta per window, from pairs near the running mean.

As in the authors' code, margins have no beta factor. The authors' batch is one forward call, here it is a
window: a single pair has no spread, and nothing to choose from.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx

from ..settings import LARGEST_WEIGHT, SMALLEST_DIVISOR, Section, setting
from .beta_rule import BetaRule, BetaStep, exact, register_beta_rule

_LEAST = 1e-6
"""Spread below which margins count as equal (before the first update all of them are 0). It is also added to
the spread, as in SeanYHan888/dynamic-dpo-v1."""


@dataclass(frozen=True)
class BetaDpoConfig(Section):
    """For beta.rule=beta_dpo: pairs with unusual margins are left out; beta follows the other pairs."""

    alpha: float = setting(
        0.6, "how strongly beta follows the margins of the kept pairs", least=0, most=LARGEST_WEIGHT
    )
    keep: float = setting(0.8, "share of the pairs of a window that are kept", above=0, most=1)
    momentum: float = setting(
        0.9, "weight of the old mean and spread in the moving average", least=0, below=1
    )
    start: str = setting(
        "window",
        "first mean and spread; window: those of the first window whose margins differ; zero: 0, as in the "
        "authors' code, where the first filters are ten times too narrow",
        choices=("window", "zero"),
    )
    minimum: float = setting(1e-3, "smallest beta", least=SMALLEST_DIVISOR, most=LARGEST_WEIGHT)
    deferred: bool = setting(
        False,
        "keep the gradient of each pair instead of scoring every pair twice; faster, but needs the memory of "
        "one adapter per pair",
    )


class BetaDpoState(NamedTuple):
    """The last `beta` (), running `mean` () and `spread` () of margins, random `key`."""

    beta: mx.array
    mean: mx.array
    spread: mx.array
    key: mx.array


@register_beta_rule(
    "beta_dpo", source="Wu et al. 2024, arXiv:2407.08639", settings=BetaDpoConfig, filters=True
)
def beta_dpo(value: float, config: BetaDpoConfig) -> BetaRule:
    """The rule that moves beta around `value`.

    Raises:
        ValueError: `value` is below the smallest beta.
    """
    if value < config.minimum:
        raise ValueError(f"value must be at least beta.beta_dpo.minimum, got {value}")

    def init(seed: int) -> BetaDpoState:
        key = mx.random.key(seed % 2**64)
        return BetaDpoState(exact(value), exact(0.0), exact(0.0), key)

    def moments(margins: mx.array, state: BetaDpoState) -> tuple[mx.array, mx.array]:
        zero = config.start == "zero"
        mean, spread = margins.mean(), mx.std(margins, ddof=int(zero and len(margins) > 1))
        if not zero and state.spread.item() < _LEAST:  # before the first update all margins are 0
            return mean, spread
        m = config.momentum
        return m * state.mean + (1 - m) * mean, m * state.spread + (1 - m) * spread

    def update(margins: mx.array, state: BetaDpoState) -> tuple[BetaStep, BetaDpoState]:
        n = len(margins)
        kept = max(1, math.floor(config.keep * n + 1e-9))
        with mx.stream(mx.cpu):
            margins = exact(margins)
            mean, spread = moments(margins, state)
            key, own = mx.random.split(state.key)
            chosen = chosen_pairs(log_weights(margins, mean, spread), kept, own)
            selected = (margins * chosen).sum() / kept
            beta = mx.maximum(value * (1 + config.alpha * (selected - mean)), config.minimum)
            metrics = {
                "beta_used": beta,
                "M0": mean,
                "sigma": spread,
                "keep_ratio": mx.array(kept / n),
                "gap_mean": margins.mean(),
                "gap_selected_mean": selected,
            }
            step = BetaStep(beta.astype(mx.float32), chosen * (n / kept), metrics)
            return step, BetaDpoState(beta, mean, spread, key)

    return BetaRule(init, update, looks_first=True, deferred=config.deferred)


def log_weights(margins: mx.array, mean: mx.array, spread: mx.array) -> mx.array:
    """Log of each margin's Gaussian weight, up to a constant: (n,)."""
    return -0.5 * mx.square((margins - mean) / (mx.maximum(spread, _LEAST) + _LEAST))


def chosen_pairs(weights: mx.array, kept: int, key: mx.array) -> mx.array:
    """Draw `kept` of n without replacement, by these log weights: float32 (n,), 0 or 1.

    The largest sums of log weight and Gumbel noise are such a draw (Gumbel top-k; Kool et al. 2019,
    arXiv:1903.06059), even if the weights themselves would underflow.
    """
    order = mx.argsort(-(weights + mx.random.gumbel(weights.shape, key=key)))
    return (mx.argsort(order) < kept).astype(mx.float32)
