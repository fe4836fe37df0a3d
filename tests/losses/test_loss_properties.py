"""What must hold of every loss: finite, unmoved by shifts, and with the traits that are registered."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_dpo.losses import LOSSES, LossConfig, build_loss
from mlx_dpo.settings import LARGEST_WEIGHT, SMALLEST_DIVISOR

from ..support.loss_pairs import ALONE, OPTIONS, REFERENCED, far_apart, pairs_of, unlike_pairs


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


def test_every_loss_says_where_it_comes_from():
    assert all("arXiv" in loss.source for loss in LOSSES.values())


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
