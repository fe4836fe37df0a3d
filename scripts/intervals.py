"""Means over seeds and their 95 % intervals, by Student's t."""

import math
import statistics
from collections.abc import Sequence

_T = {4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""97.5 % quantile of Student's t by degrees of freedom."""
SEEDS = range(5, 11)
"""How many seeds there may be."""


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half of its 95 % interval."""
    half = _T[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values), half


def with_interval(values: Sequence[float], digits: int = 3) -> str:
    """The same in words: "0.719 ± 0.035"."""
    mean, half = interval(values)
    return f"{mean:.{digits}f} ± {half:.{digits}f}"
