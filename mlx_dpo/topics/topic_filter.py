"""Which topics preferences change."""

from collections.abc import Mapping, Sequence

import numpy as np

from .training_config import FILTERS

BELOW_AVERAGE, LOW_SCORE, EITHER, ALL = FILTERS
_LOW = 2
"""Highest score of a topic that is worth changing: 3 is coherent."""


def picked_topics(name: str, coherence: np.ndarray | None, scores: Mapping[int, int | None]) -> list[int]:
    """The topics that a filter picks, in order.

    cv_below_average: C_V strictly below the mean over topics. llm_score: a score of 1 or 2. either: one of
    the two. none: every topic.

    Args:
        coherence: C_V of each topic, (K,), of its top 15 words; needed by `cv_below_average` and `either`.
        scores: of each topic; a topic without a score is not picked by its score.
    """
    below = [] if coherence is None else np.flatnonzero(coherence < coherence.mean()).tolist()
    low = [topic for topic, score in scores.items() if score is not None and score <= _LOW]
    picked: dict[str, Sequence[int]] = {
        BELOW_AVERAGE: below,
        LOW_SCORE: low,
        EITHER: {*below, *low},
        ALL: list(scores),
    }
    return sorted(picked[name])


def needs_coherence(name: str) -> bool:
    """Whether a filter needs C_V, and so the texts of the corpus."""
    return name in (BELOW_AVERAGE, EITHER)
