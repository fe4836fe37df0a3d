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
