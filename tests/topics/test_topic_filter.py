"""Which topics preferences change."""

import numpy as np
import pytest

from mlx_dpo.topics.coherence import c_v, npmi
from mlx_dpo.topics.topic_filter import measure_of, picked_topics
from mlx_dpo.topics.training_config import FILTERS

COHERENCE = np.array([0.2, 0.5, 0.5, 0.8])
SCORES = {0: 3, 1: 1, 2: None, 3: 2}


@pytest.mark.parametrize(
    ("name", "measure", "picked"),
    [
        ("cv_below_average", c_v, [0]),  # the mean is 0.5, and two topics have just that
        ("npmi_below_average", npmi, [0]),
        ("llm_score", None, [1, 3]),
        ("either", c_v, [0, 1, 3]),
        ("none", None, [0, 1, 2, 3]),
    ],
)
def test_a_filter_picks_topics_below_the_mean_or_with_a_low_score(name, measure, picked):
    assert measure_of(name) is measure
    assert picked_topics(name, None if measure is None else COHERENCE, SCORES) == picked


def test_every_filter_can_be_used():
    for name in FILTERS:
        assert picked_topics(name, COHERENCE, SCORES)


def test_without_scores_the_score_picks_nothing():
    assert picked_topics("llm_score", None, dict.fromkeys(range(4))) == []
