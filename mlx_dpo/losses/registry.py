"""What every loss takes, and the registry that names them."""

from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any, NamedTuple

import mlx.core as mx


class PairLogps(NamedTuple):
    """Log-probabilities of B pairs, float32 (B,), nats, summed over completion tokens.

    `mean_length`, float32 (): chosen tokens a pair, over all pairs of the window that these are part of.
    `shift`, (): what `bco_pair` takes off every reward.
    """

    chosen: mx.array
    rejected: mx.array
    reference_chosen: mx.array
    reference_rejected: mx.array
    chosen_lengths: mx.array
    rejected_lengths: mx.array
    mean_length: mx.array
    shift: mx.array | float = 0.0

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

    @property
    def mean_margins(self) -> mx.array:
        """The same with each log-ratio divided by its tokens: (B,) nats a token."""
        return self.chosen_logratios / self.chosen_lengths - self.rejected_logratios / self.rejected_lengths


LossFunction = Callable[[PairLogps, mx.array], mx.array]
"""Pairs and beta, float32 () or (B,), to one float32 loss a pair (B,)."""


class Loss(NamedTuple):
    """A registered loss: `function(pairs, beta, **options)` gives one float32 loss per pair.

    `of`: all it looks at. "margins", or both "ratios" to the reference: then a divergence can change these;
    "logps" of policy and reference; "policy": no reference is needed. `window`: a pair's loss depends on the
    other pairs of the window. `per_token`: it divides by the answers' lengths before it compares them.
    `betas`: from and to where beta is usual, for losses that the default beta hardly moves.
    """

    function: Callable[..., mx.array]
    source: str
    of: str
    window: bool
    per_token: bool
    betas: tuple[float, float] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Its keyword options with their defaults."""
        parameters = signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is Parameter.KEYWORD_ONLY}


LOSSES: dict[str, Loss] = {}


def register_loss(
    name: str,
    *,
    source: str,
    of: str = "margins",
    window: bool = False,
    per_token: bool = False,
    betas: tuple[float, float] | None = None,
) -> Callable:
    """Add a loss under `name`, with the paper and equation that define it; see `Loss`."""

    def add(function):
        LOSSES[name] = Loss(function, source, of, window, per_token, betas)
        return function

    return add
