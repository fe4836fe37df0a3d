"""Pair losses and rules for beta: arrays in, arrays out."""

from . import pairwise
from .beta import BetaConfig, beta_rule
from .core import LOSSES, LossConfig, PairLogps, build_loss

__all__ = ["LOSSES", "BetaConfig", "LossConfig", "PairLogps", "beta_rule", "build_loss", "pairwise"]
