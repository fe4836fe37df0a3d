"""Beta, the pull towards the reference, as a rule: two pure functions and a state of arrays."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx

from ..settings import setting


class BetaState(NamedTuple):
    """State of a rule; `beta` is what the coming window uses, float32 ()."""

    beta: mx.array


class BetaRule(NamedTuple):
    """`update` sees a window's margins, float32 (n,), after it, and gives the next window's state."""

    init: Callable[[], BetaState]
    update: Callable[[mx.array, BetaState], BetaState]


@dataclass(frozen=True)
class BetaConfig:
    """How strongly the policy is held to the reference."""

    rule: str = setting("fixed", "how beta moves during a run", choices=("fixed",))
    value: float = setting(0.1, "beta at the start; larger stays closer to the reference")

    def __post_init__(self):
        if not self.value > 0:
            raise ValueError(f"value must be above 0, got {self.value}")


def beta_rule(config: BetaConfig) -> BetaRule:
    """The configured rule; the fixed one never moves."""
    return BetaRule(init=lambda: BetaState(mx.array(config.value)), update=lambda margins, state: state)
