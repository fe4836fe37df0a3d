"""Pair losses and rules for beta: arrays in, arrays out."""

from .beta_rule import BETA_RULES, BetaRule, BetaStep, register_beta_rule
from .beta_rules import BetaConfig, beta_rule
from .configured import LossConfig, build_loss
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
