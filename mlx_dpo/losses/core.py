"""What every loss takes, and the registry that names them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import mlx.core as mx

from ..settings import setting


class PairLogps(NamedTuple):
    """Log-probabilities of B pairs, float32 (B,), nats, summed over completion tokens."""

    chosen: mx.array
    rejected: mx.array
    reference_chosen: mx.array
    reference_rejected: mx.array
    chosen_lengths: mx.array
    rejected_lengths: mx.array

    @property
    def chosen_logratios(self) -> mx.array:
        """Policy minus reference, chosen: (B,) nats."""
        return self.chosen - self.reference_chosen

    @property
    def rejected_logratios(self) -> mx.array:
        """Policy minus reference, rejected: (B,) nats."""
        return self.rejected - self.reference_rejected

    @property
    def margins(self) -> mx.array:
        """Chosen minus rejected log-ratio, without beta: (B,) nats."""
        return self.chosen_logratios - self.rejected_logratios


class Loss(NamedTuple):
    """A registered loss: `function(pairs, beta, **options)` gives one float32 loss per pair."""

    function: Callable[..., mx.array]
    source: str


LOSSES: dict[str, Loss] = {}


def register_loss(name: str, *, source: str) -> Callable:
    """Add a loss under `name`, with the paper and equation that define it."""

    def add(function):
        LOSSES[name] = Loss(function, source)
        return function

    return add


@dataclass(frozen=True)
class LossConfig:
    """What is minimised."""

    name: str = setting("sigmoid", "the loss: sigmoid is DPO as published")
    label_smoothing: float = setting(
        0.0, "chance that a label is flipped, 0 to below 0.5; above 0 is conservative DPO"
    )

    def __post_init__(self):
        if self.name not in LOSSES:
            raise ValueError(f"name must be one of {', '.join(LOSSES)}, got {self.name!r}")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing must be in [0, 0.5), got {self.label_smoothing}")


def build_loss(config: LossConfig) -> Callable[[PairLogps, mx.array], mx.array]:
    """The configured loss as a function of pairs and beta: float32 (B,)."""
    return partial(LOSSES[config.name].function, label_smoothing=config.label_smoothing)
