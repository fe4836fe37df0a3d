"""Pair losses and rules for beta: arrays in, arrays out."""

from .beta import BetaRule, BetaStep
from .build import LossConfig, build_loss
from .core import LOSSES, LossFunction, PairLogps
from .rules import BetaConfig, beta_rule

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
