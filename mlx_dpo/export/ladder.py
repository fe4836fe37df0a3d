"""Precisions of a fused model, from the smallest: which of them still behaves like the adapter."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from .grids import Grids
from .kept import Kept, together
from .layer_precisions import Bits, Choice, Layers, Target
from .likeness import Likeness, Yardstick

Built = tuple[nn.Module, dict[str, Any]]
"""A model and the content of its config.json."""

_SPARE = 0.8
"""Of the noise that should pass by the rule of squares, the share that mixed layers may have."""
_TRIES = 3
"""Mixtures that are tried before all trained layers are left unquantised."""


class Rung(NamedTuple):
    """A way to store the whole model.

    `bits`: mean over all weights. `kept`: of all trained layers together. `layers`: bits and `kept` of each.
    """

    name: str
    grids: Grids
    bytes: int
    bits: float
    kept: Kept
    layers: Mapping[str, tuple[Bits, Kept]]


class Measured(NamedTuple):
    """A rung that was built and compared with the adapter."""

    rung: Rung
    likeness: Likeness


class Ladder:
    """All rungs for one run."""

    def __init__(
        self,
        layers: Layers,
        target: Target,
        grids: Mapping[int, Grids],
        costs: Mapping[str, Mapping[Bits, Choice]],
    ):
        self.layers, self.target, self.grids, self.costs = layers, target, grids, costs

    def uniform(self, bits: Bits) -> Rung:
        """All trained layers at this number of bits; None: the whole model unquantised."""
        others = {} if bits is None else self.grids[self.target.bits if self.target.grids else bits]
        return self._rung("plain" if bits is None else str(bits), dict.fromkeys(self.costs, bits), others)

    def mixed(self, most_noise: float) -> Rung:
        """Each trained layer at the usual bits of the base, 8, or unquantised; as small as possible.

        The layer that loses most noise for the bytes it takes goes up first.

        Args:
            most_noise: of all trained layers together, see `Kept.noise`.
        """
        steps = [self.target.bits, *([8] if self.target.bits < 8 else []), None]
        chosen = mixture(self.costs, steps, most_noise)
        return self._rung("mixed", chosen, self.grids[self.target.bits])

    def _rung(self, name: str, chosen: Mapping[str, Bits], others: Grids) -> Rung:
        own = {path: self.costs[path][bits] for path, bits in chosen.items()}
        grids = {path: grid for path, grid in others.items() if path not in own}
        grids |= {path: choice.grid for path, choice in own.items() if choice.grid}
        size = self.layers.bytes(grids)
        layers = {path: (bits, own[path].kept) for path, bits in chosen.items()}
        kept = together(choice.kept for choice in own.values())
        return Rung(name, grids, size, 8 * size / self.layers.weights, kept, layers)


def mixture(
    costs: Mapping[str, Mapping[Bits, Choice]], steps: list[Bits], most_noise: float
) -> dict[str, Bits]:
    """The bits of each layer, raised step by step until the noise of all together is at most `most_noise`."""
    place = dict.fromkeys(costs, 0)
    delta = sum(choices[steps[0]].kept.delta for choices in costs.values())
    error = sum(choices[steps[0]].kept.error for choices in costs.values())

    def step(path: str) -> tuple[float, int]:
        """How much error the layer's next step takes away, and its bytes."""
        now, then = (costs[path][steps[place[path] + i]] for i in (0, 1))
        return now.kept.error - then.kept.error, then.bytes - now.bytes

    while error > most_noise**2 * delta:
        steps_left = {path: step(path) for path in costs if place[path] + 1 < len(steps)}
        useful = {path: less / max(1, more) for path, (less, more) in steps_left.items() if less > 0}
        if not useful:
            break
        path = max(useful, key=useful.__getitem__)
        error -= steps_left[path][0]
        place[path] += 1
    return {path: steps[number] for path, number in place.items()}


def climb(
    ladder: Ladder,
    precision: str,
    build: Callable[[Rung], Built],
    yardstick: Yardstick,
    most: float,
    tell: Callable[[Measured], None],
) -> tuple[Built | None, list[Measured]]:
    """Build and measure rungs from the smallest until one passes: what was built, or None; and all measures.

    KL grows with the square of small changes, so a rung that fails shows how much noise a mixture may have.

    Args:
        most: the largest KL ratio that passes.
        tell: called with each rung that was measured.
    """
    usual = ladder.target.bits
    starts = {"auto": [usual, *(b for b in (6, 8) if b > usual), None], "mixed": [usual], "plain": [None]}
    waiting = [ladder.uniform(bits) for bits in starts.get(precision) or [int(precision)]]
    measured: list[Measured] = []
    while waiting:
        rung = waiting.pop(0)
        built = build(rung)
        measured.append(Measured(rung, yardstick.likeness(built[0])))
        tell(measured[-1])
        ratio = measured[-1].likeness.ratio
        if ratio <= most:
            return built, measured
        del built
        mx.clear_cache()
        if precision in ("auto", "mixed") and rung.name in (str(usual), "mixed"):
            tries = sum(done.rung.name == "mixed" for done in measured)
            share = _SPARE * most / ratio if tries < _TRIES else 0.0
            mixed = ladder.mixed((rung.kept.noise or 0.0) * share**0.5)
            if all(mixed.grids != other.grids for other in (*waiting, *(done.rung for done in measured))):
                waiting = sorted([*waiting, mixed], key=lambda rung: rung.bytes)
    return None, measured
