"""Beta, the pull towards the reference, as a rule: two pure functions and a state of arrays."""

from collections.abc import Callable
from typing import Any, NamedTuple

import mlx.core as mx

from ..settings import Section


class BetaStep(NamedTuple):
    """What a rule made of a window of n pairs.

    `beta`: float32 (), what the window is scored with. `weights`: float32 (n,), of its pairs, 1 on average;
    `metrics`: () each, under their published names; logged below the rule's name, as NAME/metric.
    """

    beta: mx.array
    weights: mx.array
    metrics: dict[str, mx.array]


class BetaRule(NamedTuple):
    """How beta moves.

    `init(seed)` gives the state before the first window: a NamedTuple of arrays, one of them `beta`, ().
    `update(margins, state)`: a window's margins, float32 (n,), without beta, to its step and the next state.
    With `looks_first` a window's beta or weights depend on its own margins; else its beta is the state's.
    Two are also settings of the rule, if it has them: with `deferred` the pairs of such a window are scored
    once and each pair's gradient is kept; for `warmup_steps` updates beta stays at its first value.
    """

    init: Callable[[int], Any]
    update: Callable[[mx.array, Any], tuple[BetaStep, Any]]
    looks_first: bool = False
    deferred: bool = False
    warmup_steps: int | None = None

    @property
    def first_move(self) -> int:
        """The first window, counted from 1, that could have another beta than the first."""
        return (self.warmup_steps or 0) + (1 if self.looks_first else 2)


class RegisteredRule(NamedTuple):
    """A rule by name: `make(value, section)` gives it around beta `value`.

    `settings`: the class of its section, beta.NAME; a rule without one has `make(value)`. `moves`: beta may
    change during a run. `filters`: it leaves pairs of a window out.
    """

    make: Callable[..., BetaRule]
    source: str
    settings: type[Section] | None = None
    moves: bool = True
    filters: bool = False


BETA_RULES: dict[str, RegisteredRule] = {}


def register_beta_rule(name: str, *, source: str, **traits: Any) -> Callable:
    """Add a rule under `name`, with where it was published; see `RegisteredRule` for the traits.

    A rule with settings is registered where `beta_rules` imports it, before it makes their sections.
    """

    def add(make):
        BETA_RULES[name] = RegisteredRule(make, source, **traits)
        return make

    return add


def exact(values: Any) -> mx.array:
    """As a float64 array. MLX has these on the CPU only: compute with them under `mx.stream(mx.cpu)`.

    Beta is multiplied thousands of times, and margins are compared with a threshold: float32 would drift.
    """
    with mx.stream(mx.cpu):
        return values.astype(mx.float64) if isinstance(values, mx.array) else mx.array(values, mx.float64)


def beta_step(beta: mx.array, pairs: int, metrics: dict[str, mx.array] | None = None) -> BetaStep:
    """The step of a rule that counts all pairs alike."""
    return BetaStep(beta.astype(mx.float32, stream=mx.cpu), mx.ones((pairs,)), metrics or {})


class FixedState(NamedTuple):
    """State of the rule that never moves."""

    beta: mx.array


@register_beta_rule("fixed", source="", moves=False)
def fixed(value: float) -> BetaRule:
    """Beta stays as it is."""

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
