"""Which topics preferences change."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from .coherence import c_v, npmi
from .training_config import FILTERS

CV_BELOW_AVERAGE, NPMI_BELOW_AVERAGE, LOW_SCORE, EITHER, ALL = FILTERS
_LOW = 2
"""Highest score of a topic that is worth changing: 3 is coherent."""

Measure = Callable[[Sequence[str], Sequence[str], np.ndarray], np.ndarray]


def measure_of(name: str) -> Measure | None:
    """The coherence that a filter looks at; None if it looks at none, and needs no texts."""
    measures = {CV_BELOW_AVERAGE: c_v, EITHER: c_v, NPMI_BELOW_AVERAGE: npmi}
    return measures.get(name)


def picked_topics(name: str, coherence: np.ndarray | None, scores: Mapping[int, int | None]) -> list[int]:
    """The topics that a filter picks, in order.

    cv_below_average, npmi_below_average: a coherence strictly below the mean over topics. llm_score: a score
    of 1 or 2. either: C_V or the score. none: every topic.

    Args:
        coherence: of each topic's top 15 words, (K,), by `measure_of`; None where that is None.
        scores: of each topic; a topic without a score is not picked by its score.
    """
    below = [] if coherence is None else np.flatnonzero(coherence < coherence.mean()).tolist()
    low = [topic for topic, score in scores.items() if score is not None and score <= _LOW]
    picked: dict[str, Sequence[int]] = {
        CV_BELOW_AVERAGE: below,
        NPMI_BELOW_AVERAGE: below,
        LOW_SCORE: low,
        EITHER: {*below, *low},
        ALL: list(scores),
    }
    return sorted(picked[name])
