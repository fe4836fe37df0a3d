"""Diversity of topics: how little their top words repeat. Two definitions are in use, and both are given."""

import numpy as np


def unique_diversity(top: np.ndarray) -> float:
    """Words in exactly one topic's list, divided by all K·n: the definition of ECRTM's authors.

    [[0, 1], [1, 2]] -> 2 / 4
    """
    _, counts = np.unique(top, return_counts=True)
    return float((counts == 1).sum() / top.size)


def distinct_diversity(top: np.ndarray) -> float:
    """Different words, divided by all K·n: the definition of Dieng et al. 2020 and of TopMost.

    [[0, 1], [1, 2]] -> 3 / 4
    """
    return len(np.unique(top)) / top.size


def topic_quality(coherence: np.ndarray, top: np.ndarray) -> float:
    """Mean coherence times diversity of distinct words (Dieng et al. 2020, section 5).

    Args:
        coherence: (K,), of the topics whose words are in `top`, (K, n).
    """
    return float(coherence.mean()) * distinct_diversity(top)
