"""Numbers about pairs, by hand."""

import itertools
import math

import numpy as np
import pytest

from mlx_dpo.metrics import pair_metrics, wilson_interval

POLICY = np.array([[-10, -14], [-20, -21], [-30, -28]], np.float32)
REFERENCE = np.array([[-12, -13], [-20, -21], [-31, -30]], np.float32)
LOSSES = np.array([0.5, 0.7, 0.9], np.float32)


def test_means_over_pairs_by_hand():
    """Log-ratios (2, −1), (0, 0), (1, 2); beta 0.1: margins 0.3, 0 and −0.1."""
    metrics = pair_metrics(POLICY, REFERENCE, LOSSES, np.full(3, 0.1))
    assert metrics == {
        "loss": pytest.approx(0.7),
        "rewards/chosen": pytest.approx(0.1 * (2 + 0 + 1) / 3),
        "rewards/rejected": pytest.approx(0.1 * (-1 + 0 + 2) / 3),
        "rewards/margins": pytest.approx((0.3 + 0 - 0.1) / 3),
        "rewards/accuracies": pytest.approx(1 / 3),
        "logps/chosen": -20.0,
        "logps/rejected": -21.0,
    }


def test_a_tie_is_not_right():
    tied = np.array([[-10, -20], [-5, -6]], np.float32)
    metrics = pair_metrics(tied, tied, np.zeros(2), np.full(2, 0.1))
    assert metrics["rewards/accuracies"] == 0
    assert metrics["rewards/margins"] == 0


def test_each_pair_is_weighed_with_its_own_beta():
    """Beta 0.1, 1 and 10: chosen rewards 0.2, 0 and 10."""
    metrics = pair_metrics(POLICY, REFERENCE, LOSSES, np.array([0.1, 1.0, 10.0]))
    assert metrics["rewards/chosen"] == pytest.approx((0.2 + 0 + 10) / 3)
    assert metrics["rewards/margins"] == pytest.approx((0.3 + 0 - 10) / 3)


def test_a_mean_over_all_pairs_is_not_the_mean_of_part_means():
    """One pair at loss 0 and three at loss 1: 3/4, not (0 + 1) / 2."""
    losses = np.array([0, 1, 1, 1], np.float32)
    scores = np.zeros((4, 2), np.float32)
    assert pair_metrics(scores, scores, losses, np.ones(4))["loss"] == 0.75


def test_sums_do_not_lose_small_differences_to_float32():
    """Log-probabilities of −10,000.0009765625 and a margin of one float32 step each, over many pairs."""
    step = float(np.spacing(np.float32(10000)))
    policy = np.full((50_000, 2), -10000, np.float32)
    policy[:, 0] += np.float32(step)
    metrics = pair_metrics(policy, np.full_like(policy, -10000), np.zeros(50_000), np.ones(50_000))
    assert metrics["rewards/margins"] == pytest.approx(step, rel=1e-12)
    assert metrics["logps/chosen"] == pytest.approx(-10000 + step, rel=1e-14)
    assert metrics["rewards/accuracies"] == 1


def test_metrics_are_plain_floats_for_json():
    metrics = pair_metrics(POLICY, REFERENCE, LOSSES, np.full(3, 0.1, np.float32))
    assert {type(v) for v in metrics.values()} == {float}


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # z² = 3.8416. 8 of 10: (0.8 + 0.19208 ± 1.96 · sqrt(0.016 + 0.009604)) / 1.38416
        (8, 10, 0.490157, 0.943319),
        # 5 of 10: (0.5 + 0.19208 ± 1.96 · sqrt(0.025 + 0.009604)) / 1.38416
        (5, 10, 0.236589, 0.763411),
        # 0 of 10: high is 0.38416 / 1.38416
        (0, 10, 0.0, 0.277540),
        (10, 10, 0.722460, 1.0),
        # 1 of 1: low is 1 / (1 + 3.8416)
        (1, 1, 0.206543, 1.0),
        # 60 of 96: (0.625 + 0.0200083 ± 1.96 · sqrt(0.00244141 + 0.00010421)) / 1.0400167
        (60, 96, 0.525105, 0.715275),
    ],
)
def test_wilson_interval_by_hand(successes, n, low, high):
    assert wilson_interval(successes, n) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))


@pytest.mark.parametrize(("successes", "n"), [(1, 3), (8, 10), (60, 96), (999, 1000)])
def test_at_both_bounds_the_rate_is_z_deviations_away(successes, n):
    """Wilson's definition: |rate − bound| = z · sqrt(bound · (1 − bound) / n)."""
    for bound in wilson_interval(successes, n):
        assert abs(successes / n - bound) == pytest.approx(1.96 * math.sqrt(bound * (1 - bound) / n))


def test_the_interval_stays_between_0_and_1_and_holds_its_rate():
    for n in (1, 2, 3, 17, 96, 1000):
        for successes in range(n + 1):
            low, high = wilson_interval(successes, n)
            assert 0 <= low <= successes / n <= high <= 1
            assert low < high


def test_the_interval_mirrors_when_successes_and_failures_change_places():
    for successes, n in itertools.product(range(12), (11, 40)):
        low, high = wilson_interval(successes, n)
        assert wilson_interval(n - successes, n) == (pytest.approx(1 - high), pytest.approx(1 - low))


def test_more_pairs_make_the_interval_narrower_about_as_one_over_their_root():
    widths = [high - low for low, high in (wilson_interval(6 * k, 10 * k) for k in (10, 40, 160))]
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.02)
    assert widths[1] / widths[2] == pytest.approx(2, rel=0.01)


def test_the_interval_covers_the_true_rate_about_95_times_in_100():
    rng = np.random.default_rng(0)
    n, rate = 50, 0.9
    intervals = [wilson_interval(int(s), n) for s in rng.binomial(n, rate, 2000)]
    covered = np.mean([low <= rate <= high for low, high in intervals])
    assert abs(covered - 0.95) < 0.03


def test_an_empty_set_has_no_rate():
    with pytest.raises(ValueError, match="an empty set has no rate"):
        wilson_interval(0, 0)


def test_a_wider_z_gives_a_wider_interval():
    low, high = wilson_interval(8, 10, z=2.576)
    assert low < 0.490157 and high > 0.943319
    assert high - low == pytest.approx(
        2 * 2.576 / (1 + 0.6635776) * math.sqrt(0.016 + 0.6635776 / 40), abs=1e-6
    )
