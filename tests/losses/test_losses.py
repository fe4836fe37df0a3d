"""Pair losses: published check values, sums worked by hand, and what must hold of every loss."""

import math

import mlx.core as mx
import numpy as np
import pytest

from mlx_dpo.losses import LOSSES, BetaConfig, LossConfig, PairLogps, build_loss
from mlx_dpo.losses.divergences import DIVERGENCES
from mlx_dpo.losses.pairwise import sigmoid
from mlx_dpo.settings import LARGEST_WEIGHT, SMALLEST_DIVISOR

from ..support.exact_losses import EXACT, exact_loss

LN2 = math.log(2)
BETAS = [0.01, 0.1, 1.0, 7.5]
ALONE = [name for name, loss in LOSSES.items() if not loss.window]
REFERENCED = [name for name, loss in LOSSES.items() if loss.uses_reference]
OPTIONS = [(name, option) for name, loss in LOSSES.items() for option in loss.options]


def pairs_of(margins, dtype=mx.float32):
    """Pairs with these margins, half of each from the chosen answer and half from the rejected one."""
    half = mx.array(np.asarray(margins, np.float64) / 2, dtype)
    lengths, zero = mx.array([8] * len(margins)), mx.zeros_like(half)
    return PairLogps(half - 40, -half - 50, zero - 40, zero - 50, lengths, lengths, mx.array(8.0))


def unlike_pairs(count=7, seed=0):
    """Pairs of unlike lengths whose policy has moved, some of them the wrong way."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 40, (2, count))
    reference = -lengths * rng.uniform(0.5, 3, (2, count))
    policy = np.minimum(reference + rng.normal(0, 3, (2, count)), -0.3)
    rows = [mx.array(row.astype(np.float32)) for row in (*policy, *reference)]
    return PairLogps(*rows, *map(mx.array, lengths), mx.array(lengths[0].mean(), mx.float32))


def far_apart():
    """One pair, told apart by 20,000 nats; its chosen answer of 8 tokens has 5 nats a token."""
    logps = (mx.array([x]) for x in (-40.0, -1e4, -1e4, -50.0))
    return PairLogps(*logps, mx.array([8]), mx.array([8]), mx.array(8.0))


def reference_pair():
    """The check values' pair: policy (−10, −14), reference (−12, −13): log-ratios 2 and −1, margin 3."""
    logps = (mx.array([x]) for x in (-10.0, -14.0, -12.0, -13.0))
    return PairLogps(*logps, mx.array([8]), mx.array([10]), mx.array(8.0))


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


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_one_finite_float32_a_pair_at_any_margin(name):
    loss = build_loss(LossConfig(name=name))(pairs_of([-1e4, -1.0, 0.0, 1.0, 1e4]), mx.array(0.1))
    assert (loss.shape, loss.dtype) == ((5,), mx.float32)
    assert np.isfinite(np.array(loss)).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_slope_is_finite_at_any_margin(name):
    pairs, loss = pairs_of([-1e4, -1.0, 0.0, 1.0, 1e4]), build_loss(LossConfig(name=name))

    def summed(chosen, rejected):
        return loss(pairs._replace(chosen=chosen, rejected=rejected), mx.array(0.1)).sum()

    slopes = np.array(mx.grad(summed, argnums=(0, 1))(pairs.chosen, pairs.rejected))
    assert np.isfinite(slopes).all()
    assert np.abs(slopes).max() > 0


@pytest.mark.parametrize("beta", [SMALLEST_DIVISOR, LARGEST_WEIGHT])
@pytest.mark.parametrize(
    "settings",
    [
        *({"name": name} for name in LOSSES),
        *({"name": [name], "weights": [LARGEST_WEIGHT]} for name in ("ipo", "cpo", "sppo_hard")),
        *(
            {"name": name, "options": {option: limit}}
            for name, option in OPTIONS
            for bound, limit in LOSSES[name].options[option].bounds.items()
            if bound in ("least", "most")
        ),
    ],
    ids=str,
)
def test_a_loss_and_its_slope_are_finite_at_the_bounds_of_its_settings(settings, beta):
    pairs, loss = pairs_of([-1e3, -1.0, 0.0, 1.0, 1e3]), build_loss(LossConfig(**settings))

    def summed(chosen, rejected):
        return loss(pairs._replace(chosen=chosen, rejected=rejected), mx.array(beta)).sum()

    assert np.isfinite(np.array(loss(pairs, mx.array(beta)))).all()
    assert np.isfinite(np.array(mx.grad(summed, argnums=(0, 1))(pairs.chosen, pairs.rejected))).all()


def test_dpops_penalty_has_no_slope_where_the_policy_has_not_moved():
    """All pairs of a first update are there: it would be fifty times what the margins ask for."""
    pairs, loss = pairs_of([0.0]), build_loss(LossConfig(name="dpop"))
    slope = mx.grad(lambda chosen: loss(pairs._replace(chosen=chosen), mx.array(0.1)).sum())(pairs.chosen)
    assert slope.item() == pytest.approx(-0.05)


@pytest.mark.parametrize("name", ALONE)
def test_a_pairs_loss_does_not_depend_on_the_pairs_beside_it(name):
    loss, margins = build_loss(LossConfig(name=name)), [-3.0, 0.5, 40.0]
    together = loss(pairs_of(margins), mx.array(0.3)).tolist()
    assert together == [loss(pairs_of([m]), mx.array(0.3)).item() for m in margins]


@pytest.mark.parametrize("name", ["sigmoid", "robust", "bco_pair", "apo_zero", "sigmoid_norm", "dpop", "aot"])
def test_a_larger_margin_costs_less(name):
    loss = np.array(build_loss(LossConfig(name=name))(pairs_of(np.linspace(-50, 50, 201)), mx.array(0.1)))
    assert (np.diff(loss) < 0).all()


@pytest.mark.parametrize("name", [name for name in REFERENCED if name != "aot"])
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


@pytest.mark.parametrize("name", REFERENCED)
def test_a_shift_of_all_pairs_together_changes_nothing(name):
    pairs, loss = pairs_of([-4.0, 0.25, 8.0]), build_loss(LossConfig(name=name))
    names = ("chosen", "reference_chosen", "rejected", "reference_rejected")
    shifts = dict(zip(names, (16, 16, -32, -32), strict=True))
    moved = pairs._replace(**{name: getattr(pairs, name) + shift for name, shift in shifts.items()})
    expected = np.array(loss(pairs, mx.array(0.1)))
    np.testing.assert_allclose(np.array(loss(moved, mx.array(0.1))), expected, rtol=1e-6)


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in REFERENCED])
def test_a_loss_without_reference_does_not_look_at_it(name):
    pairs, loss = unlike_pairs(), build_loss(LossConfig(name=name))
    other = pairs._replace(reference_chosen=pairs.chosen * 2, reference_rejected=pairs.chosen - 1)
    assert loss(pairs, mx.array(0.1)).tolist() == loss(other, mx.array(0.1)).tolist()


@pytest.mark.parametrize("name", ALONE)
def test_beta_may_differ_from_pair_to_pair(name):
    loss, margins, betas = build_loss(LossConfig(name=name)), [-3.0, 0.5, 40.0], [0.1, 1.0, 0.02]
    each = [loss(pairs_of([m]), mx.array(b)).item() for m, b in zip(margins, betas, strict=True)]
    assert loss(pairs_of(margins), mx.array(betas)).tolist() == pytest.approx(each, rel=1e-6)


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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "sigmoyd"}, "name must be one of sigmoid"),
        ({"name": []}, "name must name at least one loss"),
        ({"name": ["sft", "sft"]}, "name must list each loss only once, got sft, sft"),
        ({"name": ["sigmoid", "sft"], "weights": [1.0]}, r"weights must .* \(2\), got 1"),
        ({"options": {"label_smoothing": 0.5}}, "options.label_smoothing must be below 0.5, got 0.5"),
        ({"options": {"label_smoothing": -0.1}}, "options.label_smoothing must be at least 0, got -0.1"),
        (
            {"name": ["sigmoid", "exo_pair"], "options": {"label_smoothing": 0}},
            "options.label_smoothing must be above 0, got 0.0\nexo_pair: chance that a label is flipped",
        ),
        (
            {"name": "ipo", "options": {"label_smoothing": 0.1}},
            "options.label_smoothing .*sigmoid.*, not of ipo\nipo takes no options",
        ),
        ({"options": {"dpop_lambda": 1.0}}, "options.dpop_lambda .*dpop, not of sigmoid"),
        ({"weights": [0.0]}, "weights must be above 0"),
        ({"divergence_alpha": 0.3}, "divergence_alpha .*alpha, not for reverse_kl"),
        ({"name": ["sigmoid", "sft"], "ld_alpha": 0.5}, "ld_alpha .*reference, not for sft"),
        ({"wpo": True, "ld_alpha": 0.0}, "ld_alpha must be above 0 with wpo"),
        ({"name": "bco_pair", "bco_shift": True, "divergence": "js"}, "bco_shift .*divergence=reverse_kl"),
        ({"bco_shift": True}, "bco_shift .*bco_pair, not for sigmoid"),
        ({"wpo": True, "name": "aot"}, "wpo .*single pairs, but aot"),
        ({"ld_alpha": 1.5}, "ld_alpha must be null or at most 1, got 1.5"),
        ({"name": "discopop", "options": {"discopop_tau": 0.0}}, "discopop_tau must be at least 1e-06"),
        ({"name": "simpo", "options": {"simpo_gamma": -1.0}}, "options.simpo_gamma must be at least 0"),
        ({"name": "simpo", "options": {"simpo_gamma": "much"}}, "simpo_gamma must be a number, got 'much'"),
        ({"name": "apo_zero", "divergence": "js"}, "divergence must be reverse_kl for apo_zero"),
        ({"name": "simpo", "reference_free": True}, "reference_free .*simpo"),
    ],
)
def test_a_loss_that_does_not_exist_or_make_sense_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LossConfig(**settings)


def test_every_loss_says_where_it_comes_from():
    assert all("arXiv" in loss.source for loss in LOSSES.values())


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_every_option_of_a_loss_says_what_it_is_for_and_is_bounded_on_both_sides(name, option):
    declared = LOSSES[name].options[option]
    assert declared.help
    assert {"least", "above"} & {*declared.bounds} and {"most", "below"} & {*declared.bounds}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_vanishes_as_margins_grow_exactly_where_that_is_registered(name):
    """The chosen answer far likelier than it was, the rejected one far less likely."""
    loss = build_loss(LossConfig(name=name))(far_apart(), mx.array(0.1)).item()
    assert (loss < 0.01) == LOSSES[name].vanishes


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_still_pulls_chosen_answers_up_then_exactly_where_that_is_registered(name):
    loss, pairs = build_loss(LossConfig(name=name)), far_apart()
    slope = mx.grad(lambda chosen: loss(pairs._replace(chosen=chosen), mx.array(0.1)).sum())(pairs.chosen)
    assert (slope.item() < -0.1) == LOSSES[name].anchors_chosen


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_looks_at_the_shift_exactly_where_that_is_registered(name):
    loss, pairs = build_loss(LossConfig(name=name)), unlike_pairs()
    shifted = loss(pairs._replace(shift=mx.array(0.5)), mx.array(0.1)).tolist()
    assert (shifted != loss(pairs, mx.array(0.1)).tolist()) == LOSSES[name].shifted


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_of_answers_alone_is_one_that_does_not_look_at_the_rejected_one(name):
    loss, pairs = build_loss(LossConfig(name=name)), unlike_pairs()
    other = pairs._replace(rejected=pairs.rejected * 2, rejected_lengths=pairs.rejected_lengths + 3)
    same = loss(other, mx.array(0.1)).tolist() == loss(pairs, mx.array(0.1)).tolist()
    assert same == (LOSSES[name].of == "chosen")


@pytest.mark.parametrize("value", [0.0, -0.1, math.nan])
def test_a_beta_that_is_not_above_zero_is_refused(value):
    with pytest.raises(ValueError, match="value must be at least 1e-06, got"):
        BetaConfig(value=value)
