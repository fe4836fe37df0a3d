"""Which topics preferences change."""

import numpy as np
import pytest

from mlx_dpo.topics.topic_filter import needs_coherence, picked_topics
from mlx_dpo.topics.training_config import FILTERS

COHERENCE = np.array([0.2, 0.5, 0.5, 0.8])
SCORES = {0: 3, 1: 1, 2: None, 3: 2}


@pytest.mark.parametrize(
    ("name", "picked"),
    [
        ("cv_below_average", [0]),  # the mean is 0.5, and two topics have just that
        ("llm_score", [1, 3]),
        ("either", [0, 1, 3]),
        ("none", [0, 1, 2, 3]),
    ],
)
def test_a_filter_picks_topics_below_the_mean_or_with_a_low_score(name, picked):
    assert picked_topics(name, COHERENCE, SCORES) == picked


@pytest.mark.parametrize("name", FILTERS)
def test_only_filters_that_need_it_look_at_the_coherence(name):
    if needs_coherence(name):
        assert picked_topics(name, COHERENCE, SCORES) != picked_topics(name, COHERENCE[::-1], SCORES)
    else:
        assert picked_topics(name, None, SCORES) == picked_topics(name, COHERENCE, SCORES)


def test_without_scores_the_score_picks_nothing():
    assert picked_topics("llm_score", None, dict.fromkeys(range(4))) == []
