"""Losses, options and betas that do not exist or make no sense are refused."""

import math

import pytest

from mlx_dpo.losses import LOSSES, BetaConfig, LossConfig

from ..support.loss_pairs import OPTIONS


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


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_every_option_of_a_loss_says_what_it_is_for_and_is_bounded_on_both_sides(name, option):
    declared = LOSSES[name].options[option]
    assert declared.help
    assert {"least", "above"} & {*declared.bounds} and {"most", "below"} & {*declared.bounds}


@pytest.mark.parametrize("value", [0.0, -0.1, math.nan])
def test_a_beta_that_is_not_above_zero_is_refused(value):
    with pytest.raises(ValueError, match="value must be at least 1e-06, got"):
        BetaConfig(value=value)
