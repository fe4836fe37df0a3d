"""Pair losses and rules for beta: arrays in, arrays out."""

from .beta_rule import BetaRule, BetaStep
from .beta_rules import BetaConfig, beta_rule
from .configured import LossConfig, build_loss
from .registry import LOSSES, LossFunction, PairLogps

__all__ = [
    "LOSSES",
    "BetaConfig",
    "BetaRule",
    "BetaStep",
    "LossConfig",
    "LossFunction",
    "PairLogps",
    "beta_rule",
    "build_loss",
]


def __getattr__(name: str) -> LossFunction:
    """A registered loss by its name: `losses.sigmoid(pairs, beta, label_smoothing=0.1)`."""
    if name not in LOSSES:
        raise AttributeError(f"no loss is registered as {name!r}; there are {', '.join(LOSSES)}")
    return LOSSES[name].function


def __dir__() -> list[str]:
    return sorted([*__all__, *LOSSES])
