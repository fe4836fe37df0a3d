"""The arguments of every loss, and the registry of losses with their traits."""

from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from typing import Any, NamedTuple, get_type_hints

import mlx.core as mx

from ..settings import setting


class PairLogps(NamedTuple):
    """Log-probabilities of B pairs, float32 (B,), nats, summed over completion tokens.

    `mean_length`, float32 (): mean chosen tokens of a pair, over all pairs of the window.
    `shift`, (): a loss registered as `shifted` subtracts it from every reward.
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
        """The margins with each log-ratio divided by its tokens: (B,) nats per token."""
        return self.chosen_logratios / self.chosen_lengths - self.rejected_logratios / self.rejected_lengths


LossFunction = Callable[[PairLogps, mx.array], mx.array]
"""Pairs and beta, float32 () or (B,), to one float32 loss per pair (B,)."""


class Option(NamedTuple):
    """A keyword-only parameter of a loss: its help, its bounds, other trainers' names for it.

    `default` and `kind` (the type) come from the signature of the loss.
    """

    help: str = ""
    bounds: Mapping[str, float] = {}
    also: Mapping[str, str] = {}
    default: Any = None
    kind: type = float


def option(help: str, *, also: Mapping[str, str] | str = "", **bounds: float) -> Option:
    """Declare an option of a loss when it is registered; the arguments are those of `settings.setting`."""
    metadata = setting(None, help, also=also, **bounds).metadata
    return Option(help, metadata["bounds"], metadata["also"])


class Loss(NamedTuple):
    """A registered loss: `function(pairs, beta, **options)` gives one float32 loss per pair.

    `of`: all that the loss uses. "margins", or both "ratios" to the reference, which a divergence can change;
    "logps" of policy and reference; or, without a reference, those of the "policy", or only of its "chosen"
    answers. `window`: the loss of a pair depends on the other pairs of the window. `per_token`: it divides by
    the lengths of the answers before it compares them. `anchors_chosen`: it has a supervised part, which
    keeps the chosen answers likely. `vanishes`: it goes to 0, or below, as margins grow. `shifted`: it
    subtracts `pairs.shift`. `betas`: the usual range of beta, for losses with which the default beta changes
    almost nothing.
    """

    function: Callable[..., mx.array]
    source: str
    options: Mapping[str, Option]
    of: str
    window: bool = False
    per_token: bool = False
    anchors_chosen: bool = False
    vanishes: bool = False
    shifted: bool = False
    betas: tuple[float, float] | None = None

    @property
    def uses_reference(self) -> bool:
        """Whether the loss uses the reference."""
        return self.of not in ("policy", "chosen")


LOSSES: dict[str, Loss] = {}


def register_loss(
    name: str, *, source: str, of: str = "margins", options: Mapping[str, Option] | None = None, **traits: Any
) -> Callable:
    """Add a loss under `name`, with the paper and equation that define it; see `Loss` for `of` and traits.

    Args:
        options: the help and the bounds of each keyword-only parameter of the loss; see `option`.

    Raises:
        TypeError: the loss does not take a declared option.
    """

    def add(function):
        LOSSES[name] = Loss(function, source, _options(function, options or {}), of, **traits)
        return function

    return add


def _options(function: Callable, declared: Mapping[str, Option]) -> dict[str, Option]:
    hints = get_type_hints(function)
    taken = [p for p in signature(function).parameters.values() if p.kind is Parameter.KEYWORD_ONLY]
    if unknown := declared.keys() - {p.name for p in taken}:
        raise TypeError(f"{function.__name__} has no keyword-only parameter {', '.join(sorted(unknown))}")
    return {
        p.name: declared.get(p.name, Option())._replace(default=p.default, kind=hints.get(p.name, float))
        for p in taken
    }
