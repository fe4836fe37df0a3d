"""A rule for beta, the pull towards the reference: two pure functions and a state of arrays."""

from collections.abc import Callable
from typing import Any, NamedTuple

import mlx.core as mx

from ..settings import Section


class BetaStep(NamedTuple):
    """What a rule gives for a window of n pairs.

    `beta`: float32 (), the beta of the window. `weights`: float32 (n,), weights of its pairs, 1 on average.
    `metrics`: () each, under their published names; logged with the name of the rule, as NAME/metric.
    """

    beta: mx.array
    weights: mx.array
    metrics: dict[str, mx.array]


class BetaRule(NamedTuple):
    """How beta changes during a run.

    `init(seed)` gives the state before the first window: a NamedTuple of arrays, one of them `beta`, ().
    `update(margins, state)` takes a window's margins, float32 (n,), without beta, and gives the window's step
    and the next state. `looks_first`: the beta or the weights of a window depend on its margins; otherwise
    the window has the beta of the state. Two more may be settings of the rule. `deferred`: the pairs of such
    a window are scored once, and the gradient of each pair is kept. `warmup_steps`: updates for which beta
    stays at its first value.
    """

    init: Callable[[int], Any]
    update: Callable[[mx.array, Any], tuple[BetaStep, Any]]
    looks_first: bool = False
    deferred: bool = False
    warmup_steps: int | None = None

    @property
    def first_move(self) -> int:
        """The first window (counted from 1) whose beta can differ from the first beta."""
        return (self.warmup_steps or 0) + (1 if self.looks_first else 2)


class RegisteredRule(NamedTuple):
    """A registered rule: `make(value, section)` gives the rule that starts at beta `value`.

    `settings`: the class of its section, beta.NAME; a rule without a section has `make(value)`. `moves`: beta
    may change during a run. `filters`: the rule leaves out pairs of a window.
    """

    make: Callable[..., BetaRule]
    source: str
    settings: type[Section] | None = None
    moves: bool = True
    filters: bool = False


BETA_RULES: dict[str, RegisteredRule] = {}


def register_beta_rule(name: str, *, source: str, **traits: Any) -> Callable:
    """Add a rule under `name`, with its source; see `RegisteredRule` for the traits.

    `beta_rules` must import the file of a rule that has settings, before it builds the sections.
    """

    def add(make):
        BETA_RULES[name] = RegisteredRule(make, source, **traits)
        return make

    return add


def exact(values: Any) -> mx.array:
    """A float64 array. MLX has float64 on the CPU only: compute under `mx.stream(mx.cpu)`.

    Beta is multiplied thousands of times, and margins are compared with a threshold: float32 would drift.
    """
    with mx.stream(mx.cpu):
        return values.astype(mx.float64) if isinstance(values, mx.array) else mx.array(values, mx.float64)


def beta_step(beta: mx.array, pairs: int, metrics: dict[str, mx.array] | None = None) -> BetaStep:
    """The step of a rule that gives all pairs the same weight."""
    return BetaStep(beta.astype(mx.float32, stream=mx.cpu), mx.ones((pairs,)), metrics or {})


class FixedState(NamedTuple):
    """State of the rule that never changes beta."""

    beta: mx.array


@register_beta_rule("fixed", source="", moves=False)
def fixed(value: float) -> BetaRule:
    """Beta never changes."""

    def update(margins: mx.array, state: FixedState) -> tuple[BetaStep, FixedState]:
        return beta_step(state.beta, len(margins)), state

    return BetaRule(lambda seed: FixedState(mx.array(value)), update)


def quantile(values: mx.array, level: float) -> mx.array:
    """Linear interpolation between order statistics, at position (n - 1) · level from 0: ()."""
    ordered = mx.sort(values)
    place = (len(values) - 1) * level
    below = int(place)
    above = min(below + 1, len(values) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
