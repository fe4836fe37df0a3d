"""Beta-DPO (Wu et al. 2024, arXiv:2407.08639): one beta a window, from the pairs nearest the running mean.

As in the authors' code, margins have no beta factor. Where that takes a forward call for a batch, this takes
a window: of one pair there is no spread and nothing to choose from.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx

from ..settings import LARGEST_WEIGHT, SMALLEST_DIVISOR, Section, setting
from .beta_rule import BetaRule, BetaStep, exact, register_beta_rule

_LEAST = 1e-6
"""Spread below which margins count as equal, as before the first update, when all of them are 0; and added to
it, as in SeanYHan888/dynamic-dpo-v1."""


@dataclass(frozen=True)
class BetaDpoConfig(Section):
    """beta.rule beta_dpo: pairs far from the usual margin are left out, beta follows the rest."""

    alpha: float = setting(0.6, "how much beta follows the kept pairs' margins", least=0, most=LARGEST_WEIGHT)
    keep: float = setting(0.8, "share of a window's pairs that are kept", above=0, most=1)
    momentum: float = setting(0.9, "weight of the old mean and spread against the window's", least=0, below=1)
    start: str = setting(
        "window",
        "mean and spread at first; window: those of the first window whose margins differ; zero: 0, as in "
        "the authors' code, whose first filters are ten times too sharp",
        choices=("window", "zero"),
    )
    minimum: float = setting(1e-3, "beta never falls below", least=SMALLEST_DIVISOR, most=LARGEST_WEIGHT)
    deferred: bool = setting(
        False, "keep each pair's gradient instead of scoring twice: faster; needs an adapter's memory a pair"
    )


class BetaDpoState(NamedTuple):
    """`beta` () last used, running `mean` () and `spread` () of margins, random `key`."""

    beta: mx.array
    mean: mx.array
    spread: mx.array
    key: mx.array


@register_beta_rule(
    "beta_dpo", source="Wu et al. 2024, arXiv:2407.08639", settings=BetaDpoConfig, filters=True
)
def beta_dpo(value: float, config: BetaDpoConfig) -> BetaRule:
    """The rule around beta `value`.

    Raises:
        ValueError: `value` is below the least beta.
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
    """Log of the Gaussian weight of each margin, up to a constant: (n,)."""
    return -0.5 * mx.square((margins - mean) / (mx.maximum(spread, _LEAST) + _LEAST))


def chosen_pairs(weights: mx.array, kept: int, key: mx.array) -> mx.array:
    """`kept` of n drawn one after the other without replacement, by these log weights: float32 (n,), 0 or 1.

    The largest of log weight plus Gumbel noise are such a draw (Gumbel top-k; Kool et al. 2019,
    arXiv:1903.06059), also where weights would underflow.
    """
    order = mx.argsort(-(weights + mx.random.gumbel(weights.shape, key=key)))
    return (mx.argsort(order) < kept).astype(mx.float32)
