"""DPO on topic-word logits."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_dpo.topics.topic_dpo import anchor_loss, ranked_share, topic_dpo_loss, word_pairs
from mlx_dpo.topics.win_lose import WinLose

from ..support import exact_topics

LOGITS = mx.array([[2.0, 1.0, 0.0], [0.5, 1.0, 1.5]])


def loss(logits, reference, preferences, alpha=1.0):
    return topic_dpo_loss(logits, reference, word_pairs(preferences), alpha).item()


def test_the_worked_example():
    """Margin 2 of the first topic's only pair: ln(1 + e⁻²)."""
    assert loss(LOGITS, mx.ones((2, 3)), {0: WinLose((0,), (2,))}) == pytest.approx(0.126928, abs=1e-6)


def test_at_the_snapshot_the_loss_is_ln_2_whatever_the_preferences():
    preferences = {0: WinLose((0, 1), (2,)), 1: WinLose((2,), (0, 1))}
    assert loss(LOGITS, LOGITS, preferences, 3.0) == pytest.approx(np.log(2), abs=1e-6)


def test_topics_count_alike_however_many_pairs_they_have():
    """By hand: topic 0 has margins 2 and 1, topic 1 has margin 1."""
    preferences = {0: WinLose((0,), (1, 2)), 1: WinLose((2,), (0,))}
    first = (np.log1p(np.exp(-1)) + np.log1p(np.exp(-2))) / 2
    assert loss(LOGITS, mx.zeros((2, 3)), preferences) == pytest.approx((first + np.log1p(np.exp(-1))) / 2)


def test_the_share_of_ranked_pairs_counts_topics_alike_and_no_ties():
    """By hand: topic 0 ranks both pairs, topic 1 one of three; of equal logits none leads."""
    preferences = {0: WinLose((0,), (1, 2)), 1: WinLose((1,), (0, 2, 1))}
    assert ranked_share(LOGITS, word_pairs(preferences)) == pytest.approx((1 + 1 / 3) / 2)
    assert ranked_share(mx.ones((2, 3)), word_pairs(preferences)) == 0


def test_a_topic_with_an_empty_list_does_not_count():
    only = {0: WinLose((0,), (2,))}
    more = {**only, 1: WinLose((0, 1), ())}
    zeros = mx.zeros((2, 3))
    assert loss(LOGITS, zeros, more) == loss(LOGITS, zeros, only)
    assert word_pairs({1: WinLose((0, 1), ())}) is None
    assert word_pairs({}) is None


@pytest.mark.parametrize("alpha", [0.5, 4.0])
def test_lists_of_any_lengths_give_the_value_and_the_slope_of_float64(alpha):
    draw = np.random.default_rng(0)
    logits, reference = draw.normal(size=(2, 6, 20))
    preferences = {0: WinLose((1, 5), (7,)), 3: WinLose((2,), (3, 4, 9)), 5: WinLose((0, 1, 2), (10, 11))}
    pairs, fixed = word_pairs(preferences), mx.array(reference, mx.float32)
    value, slope = mx.value_and_grad(lambda own: topic_dpo_loss(own, fixed, pairs, alpha))(
        mx.array(logits, mx.float32)
    )
    assert value.item() == pytest.approx(exact_topics.dpo(logits, reference, preferences, alpha), rel=1e-5)
    expected = exact_topics.slope(lambda own: exact_topics.dpo(own, reference, preferences, alpha), logits)
    np.testing.assert_allclose(np.array(slope), expected, atol=1e-6)
    assert (np.array(slope)[[1, 2, 4]] == 0).all()


def test_the_anchor_is_the_mean_squared_change_of_its_topics():
    moved = LOGITS + mx.array([[1.0, 1.0, 1.0], [2.0, 0.0, 1.0]])
    assert anchor_loss(moved, LOGITS, mx.array([1])).item() == pytest.approx(5 / 3)
    assert anchor_loss(moved, LOGITS, mx.array([0, 1])).item() == pytest.approx(8 / 6)
