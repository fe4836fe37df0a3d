"""Pair losses: published check values, sums worked by hand, and the definitions in float64."""

import math

import mlx.core as mx
import numpy as np
import pytest

from mlx_dpo.losses import LOSSES, LossConfig, PairLogps, build_loss
from mlx_dpo.losses.divergences import DIVERGENCES
from mlx_dpo.losses.pairwise import sigmoid

from ..support.exact_losses import EXACT, exact_loss
from ..support.loss_pairs import OPTIONS, pairs_of, reference_pair, unlike_pairs

LN2 = math.log(2)
BETAS = [0.01, 0.1, 1.0, 7.5]


def test_log_ratios_and_margin_by_hand():
    pairs = reference_pair()
    assert pairs.chosen_logratios.tolist() == [2.0]
    assert pairs.rejected_logratios.tolist() == [-1.0]
    assert pairs.margins.tolist() == [3.0]
    assert pairs.mean_margins.item() == pytest.approx(2 / 8 + 1 / 10)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 0.554355),  # ln(1 + e^-0.3)
        ({"options": {"label_smoothing": 0.1}}, 0.584355),  # 0.9 · 0.554355 + 0.1 · 0.854355
        ({"name": "hinge"}, 0.7),
        ({"name": "ipo"}, 21.6225),  # (2/8 + 1/10 - 5)^2
        ({"name": "exo_pair"}, 2.258199),
        ({"name": "nca_pair"}, 1.319407),
        ({"name": "robust"}, 0.516855),
        ({"name": "bco_pair"}, 1.242536),
        ({"name": "sppo_hard"}, 25.0),  # (2 - 5)^2 + (-1 + 5)^2
        ({"name": "apo_zero"}, 0.925187),
        ({"name": "apo_down"}, 0.975391),
        ({"name": "discopop"}, 0.740357),
        ({"name": "sigmoid_norm"}, 0.675800),
        ({"name": "aot"}, 0.554355),  # of one pair, the sigmoid loss
        ({"name": "aot_unpaired"}, 0.554355),
        ({"name": "dpop"}, 0.554355),  # the chosen answer is likelier than it was
        ({"name": "sft"}, 10 / 8),
        (
            {"name": "simpo", "options": {"simpo_gamma": 0.05}},
            math.log1p(math.exp(0.05 - 0.1 * (14 / 10 - 10 / 8))),
        ),
        ({"name": "cpo", "options": {"cpo_alpha": 2.0}}, 2 * 10 / 8 + math.log1p(math.exp(-0.4))),
    ],
)
def test_check_values(settings, expected):
    """To the digits that are printed, at beta 0.1."""
    loss = build_loss(LossConfig(**settings))
    assert loss(reference_pair(), mx.array(0.1)).item() == pytest.approx(expected, abs=6e-7, rel=2e-7)


def test_orpo_by_hand():
    """Probabilities a token 0.8 and 0.5 have odds 4 and 1: cross-entropy -ln 0.8, and beta · ln(1 + 1/4)."""
    pairs = reference_pair()._replace(chosen=mx.array([8 * math.log(0.8)]), rejected=mx.array([10 * -LN2]))
    loss = build_loss(LossConfig(name="orpo"))(pairs, mx.array(0.5)).item()
    assert loss == pytest.approx(-math.log(0.8) + 0.5 * math.log(1.25), rel=1e-6)


def test_the_penalty_of_dpop_is_inside_the_sigmoid():
    """Log-ratios -0.5 and -3.5, margin 3: with lambda 2 the logit is 0.1 · (3 - 2 · 0.5) = 0.2."""
    pairs = reference_pair()._replace(chosen=mx.array([-12.5]), rejected=mx.array([-16.5]))
    loss = build_loss(LossConfig(name="dpop", options={"dpop_lambda": 2.0}))(pairs, mx.array(0.1)).item()
    assert loss == pytest.approx(math.log1p(math.exp(-0.2)), rel=1e-6)


def test_aot_compares_sorted_log_ratios():
    """Policy log-ratios 5 and 1, the reference's 0 and 2: sorted differences are 1 - 0 and 5 - 2."""
    zero, lengths = mx.zeros((2,)), mx.array([4, 4])
    pairs = PairLogps(mx.array([5.0, 1.0]), zero, mx.array([0.0, 2.0]), zero, lengths, lengths, mx.array(4.0))
    loss = build_loss(LossConfig(name="aot"))(pairs, mx.array(1.0)).tolist()
    assert loss == pytest.approx([math.log1p(math.exp(-1)), math.log1p(math.exp(-3))], rel=1e-6)


def test_every_token_of_a_window_weighs_the_same_in_sft():
    """Answers of 3 and 20 tokens: the mean of the pairs' losses is the cross-entropy of 23 tokens."""
    pairs = PairLogps(
        mx.array([-6.0, -10.0]), *[mx.zeros((2,))] * 3, mx.array([3, 20]), mx.array([1, 1]), mx.array(11.5)
    )
    assert build_loss(LossConfig(name="sft"))(pairs, mx.array(0.1)).mean().item() == pytest.approx(16 / 23)


@pytest.mark.parametrize(
    ("name", "expected"),
    {
        **dict.fromkeys(
            ("sigmoid", "robust", "aot", "aot_unpaired", "sigmoid_norm", "dpop"), lambda beta: LN2
        ),
        **dict.fromkeys(("nca_pair", "bco_pair"), lambda beta: 2 * LN2),
        **dict.fromkeys(("hinge", "apo_zero", "apo_down"), lambda beta: 1.0),
        "ipo": lambda beta: 1 / (4 * beta**2),
        "sppo_hard": lambda beta: 2 / (4 * beta**2),
        "exo_pair": lambda beta: -LN2 - 0.5 * math.log(1e-3 * (1 - 1e-3)),
        "discopop": lambda beta: 0.5 + 0.5 * LN2,
    }.items(),
)
@pytest.mark.parametrize("beta", BETAS)
def test_a_policy_that_has_not_moved_has_the_losss_first_value(name, expected, beta):
    loss = build_loss(LossConfig(name=name))(pairs_of([0.0, 0.0]), mx.array(beta))
    assert loss.tolist() == pytest.approx([expected(beta)] * 2, rel=1e-6)


@pytest.mark.parametrize("label_smoothing", [0.1, 0.49])
def test_without_a_margin_smoothing_changes_nothing(label_smoothing):
    loss = sigmoid(pairs_of([0.0, 0.0]), mx.array(0.1), label_smoothing=label_smoothing)
    assert loss.tolist() == pytest.approx([LN2] * 2, abs=1e-7)


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


def test_dpops_penalty_has_no_slope_where_the_policy_has_not_moved():
    """All pairs of a first update are there: it would be fifty times what the margins ask for."""
    pairs, loss = pairs_of([0.0]), build_loss(LossConfig(name="dpop"))
    slope = mx.grad(lambda chosen: loss(pairs._replace(chosen=chosen), mx.array(0.1)).sum())(pairs.chosen)
    assert slope.item() == pytest.approx(-0.05)


def test_every_loss_has_a_definition_to_be_checked_against():
    assert EXACT.keys() == LOSSES.keys()


CASES = [
    *({"name": name} for name in LOSSES),
    *(
        {"name": name, "options": {option: 2 * LOSSES[name].options[option].default or 0.1}}
        for name, option in OPTIONS
    ),
    *({"name": name, "options": {option: 0.2}} for name, option in OPTIONS if option == "label_smoothing"),
    {"name": "discopop", "options": {"discopop_tau": 0.5}},
    {"name": "dpop", "options": {"dpop_lambda": 2.0}},
    {"name": "simpo", "options": {"simpo_gamma": 1.5}},
    {"name": "cpo", "options": {"cpo_alpha": 0.3}},
    {"name": ["sigmoid", "bco_pair", "sft"], "weights": [0.8, 0.2, 1.0]},
    {"name": ["sigmoid", "sft"]},
    {"name": "sigmoid", "reference_free": True},
    *(
        {"name": name, "divergence": divergence}
        for name in ("sigmoid", "ipo", "nca_pair")
        for divergence in DIVERGENCES
    ),
    {"name": "sigmoid", "divergence": "alpha", "divergence_alpha": 1.0},
]


@pytest.mark.parametrize("settings", CASES, ids=str)
@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_values_and_gradients_agree_with_float64(settings, beta):
    """The value against the definition, the gradient against its central differences, both in float64."""
    config = LossConfig(**settings)
    loss, pairs = build_loss(config), unlike_pairs()
    exact = [np.array(a, np.float64) for a in pairs[:7]]
    expected = exact_loss(config, exact, beta)
    np.testing.assert_allclose(np.array(loss(pairs, mx.array(beta))), expected, rtol=2e-5, atol=1e-6)

    def summed(chosen, rejected):
        return loss(pairs._replace(chosen=chosen, rejected=rejected), mx.array(beta)).sum()

    gradients, step = mx.grad(summed, argnums=(0, 1))(pairs.chosen, pairs.rejected), 1e-5
    for side, gradient in enumerate(gradients):
        for place, slope in enumerate(gradient.tolist()):
            sums = []
            for sign in (1, -1):
                moved = [a.copy() for a in exact]
                moved[side][place] += sign * step
                sums.append(exact_loss(config, moved, beta).sum())
            assert slope == pytest.approx((sums[0] - sums[1]) / (2 * step), rel=1e-3, abs=2e-5)


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
