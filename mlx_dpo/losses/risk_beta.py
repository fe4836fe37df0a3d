"""Risk-dynamic beta: beta rises while the share of margins above a threshold is too large.

The rule of SeanYHan888/dynamic-dpo-v1 (generation B) and of its predecessor chengjiafeng857/dynamic-dpo
(generation A); no paper defines it. Their batch is one forward call, here it is a window: with one pair per
call, the share of margins above the threshold would be 0 or 1.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx

from ..settings import LARGEST_WEIGHT, SMALLEST_DIVISOR, Section, setting
from .beta_rule import BetaRule, BetaStep, beta_step, exact, quantile, register_beta_rule


@dataclass(frozen=True)
class RiskConfig(Section):
    """For beta.rule=risk: beta rises while more than `delta` of the margins exceed a threshold."""

    delta: float = setting(0.1, "target share of margins above the threshold", above=0, below=1)
    momentum: float = setting(0.95, "weight of the old threshold in the moving average", least=0, below=1)
    alpha: float = setting(0.005, "largest change of log beta in one update", least=0, most=10)
    gamma: float = setting(
        2.0, "how steeply the change grows with the distance from delta", least=0, most=LARGEST_WEIGHT
    )
    warmup_steps: int = setting(
        120,
        "updates before beta starts to change; their margins give the first threshold",
        least=0,
        most=10**9,
    )
    minimum: float = setting(1e-3, "smallest beta", least=SMALLEST_DIVISOR, most=LARGEST_WEIGHT)
    maximum: float = setting(2.0, "largest beta", least=SMALLEST_DIVISOR, most=LARGEST_WEIGHT)
    generation: str = setting(
        "B",
        "B: beta changes after each window, as published; A: before each window, as in the earlier version",
        choices=("B", "A"),
    )
    epsilon: float = setting(
        0.05, "for generation A: failure probability of the bound that is added to delta", above=0, below=1
    )

    def __post_init__(self):
        super().__post_init__()
        if self.minimum > self.maximum:
            raise ValueError(f"minimum must be at most maximum ({self.maximum}), got {self.minimum}")


class RiskState(NamedTuple):
    """`beta` (), `windows` so far int32 (), `stored` margins of the warm-up (m,), `threshold` ()."""

    beta: mx.array
    windows: mx.array
    stored: mx.array
    threshold: mx.array


@register_beta_rule("risk", source="SeanYHan888/dynamic-dpo-v1", settings=RiskConfig)
def risk(value: float, config: RiskConfig) -> BetaRule:
    """The rule that starts at beta `value`.

    Raises:
        ValueError: `value` is out of the bounds of beta.
    """
    if not config.minimum <= value <= config.maximum:
        raise ValueError(f"value must be between beta.risk.minimum and beta.risk.maximum, got {value}")
    level = 1 - config.delta

    def init(seed: int) -> RiskState:
        return RiskState(exact(value), mx.array(0), exact([]), exact(0.0))

    def warm_up(margins: mx.array, state: RiskState) -> RiskState:
        stored = mx.concatenate([state.stored, margins])
        state = state._replace(windows=state.windows + 1, stored=stored)
        if state.windows.item() < config.warmup_steps:
            return state
        return state._replace(stored=exact([]), threshold=quantile(state.stored, level))

    def update(margins: mx.array, state: RiskState) -> tuple[BetaStep, RiskState]:
        with mx.stream(mx.cpu):
            margins = exact(margins)
            if state.windows.item() < config.warmup_steps:
                return beta_step(state.beta, len(margins)), warm_up(margins, state)
            old = config.momentum * state.threshold
            threshold = old + (1 - config.momentum) * quantile(margins, level)
            share = exact(margins >= threshold).mean()
            bound, spread = _null(config, len(margins))
            u = (share - bound) / spread
            s = mx.tanh(config.gamma * u)
            moved = state.beta + state.beta * mx.expm1(config.alpha * s)  # mx.exp is of float32 precision
            beta = mx.clip(moved, config.minimum, config.maximum)
            metrics = {"p_hat": share, "tau": threshold, "fail": share > bound, "u_k": u, "s_k": s}
            step = beta_step(
                beta if config.generation == "A" else state.beta,
                len(margins),
                metrics,
            )
            return step, state._replace(beta=beta, windows=state.windows + 1, threshold=threshold)

    first = config.generation == "A"
    return BetaRule(init, update, looks_first=first, warmup_steps=config.warmup_steps)


def _null(config: RiskConfig, n: int) -> tuple[float, float]:
    """The expected share for n margins, and the unit of deviations from it."""
    if config.generation == "A":
        allowance = math.sqrt(-math.log(config.epsilon) / (2 * n))
        return config.delta + allowance, allowance
    return config.delta, math.sqrt(config.delta * (1 - config.delta) / n)
