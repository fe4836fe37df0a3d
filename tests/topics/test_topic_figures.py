"""Diversity and clustering figures by hand."""

import math

import numpy as np
import pytest

from mlx_dpo.topics.clustering import nmi, purity
from mlx_dpo.topics.diversity import distinct_diversity, topic_quality, unique_diversity


@pytest.mark.parametrize(
    ("top", "unique", "distinct"),
    [
        ([[0, 1], [2, 3]], 1, 1),
        ([[0, 1], [1, 2]], 2 / 4, 3 / 4),
        ([[0, 1], [0, 1]], 0, 2 / 4),
        ([[0, 1, 2], [0, 3, 4], [0, 5, 6]], 6 / 9, 7 / 9),
    ],
)
def test_the_two_diversities(top, unique, distinct):
    assert unique_diversity(np.array(top)) == pytest.approx(unique)
    assert distinct_diversity(np.array(top)) == pytest.approx(distinct)


def test_topic_quality_is_mean_coherence_times_diversity():
    assert topic_quality(np.array([0.4, 0.6]), np.array([[0, 1], [1, 2]])) == pytest.approx(0.5 * 0.75)


@pytest.mark.parametrize(
    ("labels", "clusters", "expected"),
    [
        ([0, 0, 1, 1], [0, 0, 0, 1], 3 / 4),
        ([0, 0, 1, 1], [7, 7, -2, -2], 1),
        ([0, 1, 2, 3], [5, 5, 5, 5], 1 / 4),
        ([3, 3, 8, 8, 8], [0, 1, 1, 1, 0], 3 / 5),
    ],
)
def test_purity_is_the_share_of_the_most_frequent_labels(labels, clusters, expected):
    assert purity(np.array(labels), np.array(clusters)) == pytest.approx(expected)


def test_nmi_is_mutual_information_by_the_mean_entropy():
    labels, clusters = [0, 0, 1, 1], [0, 0, 0, 1]
    # I = 2/4 ln(2/4 / (2/4 · 3/4)) + 1/4 ln(1/4 / (2/4 · 3/4)) + 1/4 ln(1/4 / (2/4 · 1/4))
    mutual = 0.5 * math.log(4 / 3) + 0.25 * math.log(2 / 3) + 0.25 * math.log(2)
    entropies = math.log(2), -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert nmi(np.array(labels), np.array(clusters)) == pytest.approx(mutual / (sum(entropies) / 2))


def test_nmi_does_not_depend_on_the_numbers_of_the_clusters():
    labels = np.array([0, 0, 1, 1, 2])
    assert nmi(labels, np.array([9, 9, 4, 4, 0])) == pytest.approx(1)
