"""What is left of a trained change after rounding: the kept fraction, and the noise beside it."""

from collections.abc import Iterable
from typing import NamedTuple

import mlx.core as mx
import numpy as np


class Kept(NamedTuple):
    """Sums of squares over weights before (W0) and after (W0 + D) training, and as stored (F).

    They add up over layers. `delta`: <D, D>. `along`: <F - W0, D>. `error`: |F - W0 - D|².
    """

    delta: float
    along: float
    error: float

    @property
    def fraction(self) -> float | None:
        """<F - W0, D> / <D, D>: 1 if the change is there, 0 if not; None if nothing changed.

        Rounding noise that happens to lie along D counts too, so read it together with `noise`.
        """
        return self.along / self.delta if self.delta else None

    @property
    def noise(self) -> float | None:
        """|F - W0 - D| / |D|: what rounding added, against the change; None if nothing changed."""
        return (self.error / self.delta) ** 0.5 if self.delta else None


def kept(before: mx.array, after: mx.array, stored: mx.array) -> Kept:
    """The sums for one layer: W0, W0 + D and F, float32 of the same shape."""
    delta = after - before
    sums = ((delta * delta), (stored - before) * delta, mx.square(stored - after))
    # Rows are added up in float32, their sums in float64.
    rows = [np.array(each.sum(axis=-1), np.float64) for each in sums]
    return Kept(*(float(each.sum()) for each in rows))


def together(layers: Iterable[Kept]) -> Kept:
    """The sums over several layers."""
    return Kept(*(sum(part) for part in zip(*layers, strict=True)))
