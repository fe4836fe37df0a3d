"""Pair losses: published check values, sums worked by hand, and what must hold of every loss."""

import math

import mlx.core as mx
import numpy as np
import pytest

from mlx_dpo.losses import LOSSES, BetaConfig, LossConfig, PairLogps, beta_rule, build_loss
from mlx_dpo.losses.pairwise import sigmoid

BETAS = [0.01, 0.1, 1.0, 7.5]


def pairs_of(margins, dtype=mx.float32):
    """Pairs with these margins, half of each from the chosen answer and half from the rejected one."""
    half = mx.array(np.asarray(margins, np.float64) / 2, dtype)
    lengths = mx.array([8] * len(margins))
    return PairLogps(
        half - 40, -half - 50, mx.zeros_like(half) - 40, mx.zeros_like(half) - 50, lengths, lengths
    )


def exact_sigmoid(chosen, rejected, reference_chosen, reference_rejected, beta, label_smoothing):
    z = beta * ((chosen - reference_chosen) - (rejected - reference_rejected))
    return (1 - label_smoothing) * np.logaddexp(0, -z) + label_smoothing * np.logaddexp(0, z)


EXACT = {"sigmoid": exact_sigmoid}
"""Each loss once more, from its paper, in float64."""


def reference_pair():
    """The check values' pair: policy (−10, −14), reference (−12, −13): log-ratios 2 and −1, margin 3."""
    return PairLogps(*(mx.array([x]) for x in (-10.0, -14.0, -12.0, -13.0)), mx.array([8]), mx.array([10]))


def test_log_ratios_and_margin_by_hand():
    pairs = reference_pair()
    assert pairs.chosen_logratios.tolist() == [2.0]
    assert pairs.rejected_logratios.tolist() == [-1.0]
    assert pairs.margins.tolist() == [3.0]


@pytest.mark.parametrize(
    ("label_smoothing", "beta", "expected"),
    [
        (0.0, 0.1, 0.554355),  # ln(1 + e^-0.3)
        (0.1, 0.1, 0.584355),  # 0.9 · 0.554355 + 0.1 · 0.854355
        (0.0, 1.0, 0.048587),  # ln(1 + e^-3)
        (0.25, 1.0, 0.798587),  # 0.75 · 0.048587 + 0.25 · 3.048587
    ],
)
def test_sigmoid_has_the_published_values(label_smoothing, beta, expected):
    loss = build_loss(LossConfig(label_smoothing=label_smoothing))
    assert loss(reference_pair(), mx.array(beta)).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.49])
def test_without_a_margin_sigmoid_is_log_two_whatever_beta(beta, label_smoothing):
    loss = sigmoid(pairs_of([0.0, 0.0]), mx.array(beta), label_smoothing=label_smoothing)
    assert loss.tolist() == pytest.approx([math.log(2)] * 2, abs=1e-7)


@pytest.mark.parametrize(
    ("label_smoothing", "expected"),
    [
        (0.0, [1000.0, math.log(2), 0.0]),
        (0.1, [900.0, math.log(2), 100.0]),
    ],
)
def test_sigmoid_at_huge_margins_has_its_exact_limit(label_smoothing, expected):
    """At a margin of ±10,000 and beta 0.1 a term is 0 or 1,000 to the last digit."""
    loss = sigmoid(pairs_of([-1e4, 0.0, 1e4]), mx.array(0.1), label_smoothing=label_smoothing)
    assert loss.tolist() == pytest.approx(expected, rel=1e-6, abs=1e-30)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_one_finite_float32_a_pair_at_any_margin(name):
    loss = build_loss(LossConfig(name=name))(pairs_of([-1e4, -1.0, 0.0, 1.0, 1e4]), mx.array(0.1))
    assert (loss.shape, loss.dtype) == ((5,), mx.float32)
    assert np.isfinite(np.array(loss)).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_pairs_loss_does_not_depend_on_the_pairs_beside_it(name):
    loss, margins = build_loss(LossConfig(name=name)), [-3.0, 0.5, 40.0]
    together = loss(pairs_of(margins), mx.array(0.3)).tolist()
    assert together == [loss(pairs_of([m]), mx.array(0.3)).item() for m in margins]


@pytest.mark.parametrize("name", LOSSES)
def test_a_larger_margin_never_costs_more(name):
    loss = np.array(build_loss(LossConfig(name=name))(pairs_of(np.linspace(-50, 50, 201)), mx.array(0.1)))
    assert (np.diff(loss) < 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_shift_of_policy_and_reference_together_changes_nothing(name):
    pairs = pairs_of([-4.0, 0.25, 8.0])
    shift = mx.array([16.0, -32.0, 64.0])
    moved = pairs._replace(
        chosen=pairs.chosen + shift,
        reference_chosen=pairs.reference_chosen + shift,
        rejected=pairs.rejected - shift,
        reference_rejected=pairs.reference_rejected - shift,
    )
    loss = build_loss(LossConfig(name=name))
    np.testing.assert_allclose(
        np.array(loss(moved, mx.array(0.1))), np.array(loss(pairs, mx.array(0.1))), rtol=1e-6
    )


@pytest.mark.parametrize("name", LOSSES)
def test_beta_may_differ_from_pair_to_pair(name):
    loss, margins, betas = build_loss(LossConfig(name=name)), [-3.0, 0.5, 40.0], [0.1, 1.0, 0.02]
    each = [loss(pairs_of([m]), mx.array(b)).item() for m, b in zip(margins, betas, strict=True)]
    assert loss(pairs_of(margins), mx.array(betas)).tolist() == pytest.approx(each, rel=1e-6)


def test_every_loss_has_a_definition_to_be_checked_against():
    assert EXACT.keys() == LOSSES.keys()


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("beta", BETAS)
def test_values_and_gradients_agree_with_float64(name, label_smoothing, beta):
    """The value against the definition, the gradient against its central differences, both in float64."""
    loss = build_loss(LossConfig(name=name, label_smoothing=label_smoothing))
    pairs, step = pairs_of([-30.0, -2.0, -0.1, 0.0, 0.7, 5.0, 60.0]), 1e-5
    exact = [np.array(a, np.float64) for a in pairs[:4]]
    expected = EXACT[name](*exact, beta, label_smoothing)
    np.testing.assert_allclose(np.array(loss(pairs, mx.array(beta))), expected, rtol=1e-5, atol=1e-30)

    def summed(chosen, rejected):
        return loss(pairs._replace(chosen=chosen, rejected=rejected), mx.array(beta)).sum()

    gradients = mx.grad(summed, argnums=(0, 1))(pairs.chosen, pairs.rejected)
    for side, gradient in enumerate(gradients):
        above, below = ([a + sign * step * (i == side) for i, a in enumerate(exact)] for sign in (1, -1))
        slope = EXACT[name](*above, beta, label_smoothing) - EXACT[name](*below, beta, label_smoothing)
        np.testing.assert_allclose(np.array(gradient), slope / (2 * step), rtol=1e-5, atol=1e-7 * beta)


def test_the_slope_of_sigmoid_by_hand():
    """d loss / d chosen = −beta · σ(−beta · margin); at margin 0 half of beta, at ±10,000 nothing or all."""
    pairs = pairs_of([0.0, 1e4, -1e4, 3.0])

    def summed(chosen):
        return sigmoid(pairs._replace(chosen=chosen), mx.array(0.1)).sum()

    expected = [-0.05, 0.0, -0.1, -0.1 / (1 + math.exp(0.3))]
    assert mx.grad(summed)(pairs.chosen).tolist() == pytest.approx(expected, rel=1e-5, abs=1e-12)


def test_label_smoothing_pulls_back_from_where_the_odds_are_those_of_the_labels():
    """At flips of 0.2 the least loss is where σ(z) = 0.8: z = ln 4."""
    margins = np.linspace(0.5, 2.5, 401)
    loss = np.array(sigmoid(pairs_of(margins), mx.array(1.0), label_smoothing=0.2))
    assert margins[loss.argmin()] == pytest.approx(math.log(4), abs=0.02)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "sigmoyd"}, "name must be one of sigmoid"),
        ({"label_smoothing": 0.5}, r"label_smoothing must be in \[0, 0.5\), got 0.5"),
        ({"label_smoothing": -0.1}, r"label_smoothing must be in \[0, 0.5\), got -0.1"),
    ],
)
def test_a_loss_that_does_not_exist_or_make_sense_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LossConfig(**settings)


def test_every_loss_says_where_it_comes_from():
    assert all("arXiv" in loss.source or "20" in loss.source for loss in LOSSES.values())


def test_a_fixed_beta_stays_where_it_was_set():
    rule = beta_rule(BetaConfig(value=0.3))
    state = rule.init()
    for margins in ([5.0, -2.0], [1e4], [-1e4, 0.0]):
        state = rule.update(mx.array(margins), state)
        assert state.beta.item() == pytest.approx(0.3, rel=1e-7)


@pytest.mark.parametrize("value", [0.0, -0.1, math.nan])
def test_a_beta_that_is_not_above_zero_is_refused(value):
    with pytest.raises(ValueError, match="value must be above 0, got"):
        BetaConfig(value=value)
