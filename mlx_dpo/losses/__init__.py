"""Pair losses and rules for beta: arrays in, arrays out."""

from .beta_rule import BETA_RULES, BetaRule, BetaStep, register_beta_rule
from .configured_beta import BetaConfig, beta_rule
from .configured_loss import LossConfig, build_loss
from .reference_free import SUPERVISED
from .registry import LOSSES, LossFunction, PairLogps, option, register_loss

__all__ = [
    "BETA_RULES",
    "LOSSES",
    "SUPERVISED",
    "BetaConfig",
    "BetaRule",
    "BetaStep",
    "LossConfig",
    "LossFunction",
    "PairLogps",
    "beta_rule",
    "build_loss",
    "option",
    "register_beta_rule",
    "register_loss",
]


def __getattr__(name: str) -> LossFunction:
    """A registered loss by its name: `losses.sigmoid(pairs, beta, label_smoothing=0.1)`."""
    if name not in LOSSES:
        raise AttributeError(f"no loss is registered as {name!r}; the losses are {', '.join(LOSSES)}")
    return LOSSES[name].function


def __dir__() -> list[str]:
    return sorted([*__all__, *LOSSES])
