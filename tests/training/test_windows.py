"""An update is the mean over a window's pairs, in micro-batches of whatever size."""

import math
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_dpo.data.batches import epoch_windows
from mlx_dpo.forward.pair_logps import COMPLETION
from mlx_dpo.forward.scoring import score_pairs, singles
from mlx_dpo.jobs import prepare
from mlx_dpo.jobs.train import train_run
from mlx_dpo.losses import BetaConfig, LossConfig, beta_rule, build_loss
from mlx_dpo.losses.beta_dpo import BetaDpoConfig
from mlx_dpo.models.adapters import trainable
from mlx_dpo.training.step import pair_gradient
from mlx_dpo.training.window_gradient import Objective, take_window, window_gradient

from ..support.runs import train_pairs, weights_of


def test_accumulating_8_singles_ends_where_batches_of_8_end(configure):
    """Whole runs of full and partial windows, measured against the way gone.

    Adam divides by the gradient's size, so one entry whose gradient is itself rounding may differ; all of
    them together may not.
    """
    ended = {}
    for micro_batch, accumulation in ((1, 8), (8, 1), (3, 1)):
        windows = (f"training.micro_batch={micro_batch}", f"training.accumulation={accumulation}")
        more = ("training.epochs=2", "data.valid=null")
        config = configure("granite", *windows, *more, train=11, output=f"run-{micro_batch}")
        ended[micro_batch] = weights_of(train_run(config).folder)
    way = norm_of({n: w for n, w in ended[1].items() if n.endswith("lora_b")})
    assert difference_of(ended[8], ended[1]) < 2e-4 * way
    assert difference_of(ended[3], ended[1]) > 0.1 * way, "windows of another size end elsewhere"


def norm_of(weights):
    return math.sqrt(sum(float((w.astype(np.float64) ** 2).sum()) for w in weights.values()))


def difference_of(one, other):
    return norm_of({n: one[n] - other[n] for n in one})


@pytest.fixture(scope="module")
def made():
    """What `moved` gives, once it is made."""
    return []


@pytest.fixture
def moved(configure, made):
    """A policy that has moved, 19 pairs, their reference scores: windows of 16 and 3 pairs an epoch."""
    if not made:
        made.extend(_moved(configure("granite", "training.accumulation=16", train=19)))
    return made


def _moved(config):
    pairs = train_pairs(config)
    policy, _ = prepare._load_policy(config, Path(config.model.path), pairs)
    mx.random.seed(3)
    noise = [(n, v + 0.02 * mx.random.normal(v.shape)) for n, v in trainable(policy).items()]
    policy.load_weights(noise, strict=False)
    reference = score_pairs(policy, pairs, COMPLETION, singles(pairs)) + 3 * np.eye(19, 2, dtype="f")
    return policy, pairs, reference


@pytest.mark.parametrize("micro_batch", [16, 3])
def test_a_windows_gradient_does_not_depend_on_its_micro_batches(moved, micro_batch):
    policy, pairs, reference = moved
    singles = epoch_windows(pairs, 16, 1, 0, 0)
    batches = epoch_windows(pairs, 16, micro_batch, 0, 0)
    assert [sum(map(len, window)) for window in batches] == [16, 3]
    for one, other in zip(singles, batches, strict=True):
        expected, _ = gradient_of(policy, pairs, one, reference)
        actual, _ = gradient_of(policy, pairs, other, reference)
        assert difference_of(actual, expected) <= 2e-6 * norm_of(expected)


def test_the_mean_gradient_of_a_window_is_the_mean_over_its_pairs(moved):
    policy, pairs, reference = moved
    whole, result = gradient_of(policy, pairs, [[0, 2], [1]], reference)
    singles = [gradient_of(policy, pairs, [[i]], reference)[0] for i in range(3)]
    assert sorted(result.rows) == [0, 1, 2]
    mean = {n: np.mean([g[n] for g in singles], axis=0) for n in whole}
    assert difference_of(whole, mean) <= 2e-6 * norm_of(mean)


def objective_of(policy, loss=None, beta=None, passes="one"):
    """What a run with these settings minimises."""
    function = build_loss(LossConfig(**(loss or {})))
    gradient = pair_gradient(policy, function, COMPLETION)
    return Objective(gradient, function, beta_rule(BetaConfig(**(beta or {}))), passes)


def taken(objective, pairs, window, reference, seed=0):
    """A window's gradient by name, what it showed, beta's step."""
    state = objective.init(seed)
    gradient, result, step, _ = take_window(objective, pairs, window, reference, state)
    return {n: np.array(g) for n, g in tree_flatten(gradient)}, result, step


SINGLES, TOGETHER = [[i] for i in range(16)], [list(range(16))]
TRIPLES = [list(range(start, min(start + 3, 16))) for start in range(0, 16, 3)]
BETA_DPO = {"rule": "beta_dpo"}


@pytest.mark.parametrize("window", [TOGETHER, TRIPLES])
@pytest.mark.parametrize(
    ("loss", "beta"),
    [({}, BETA_DPO), ({"name": "ipo"}, BETA_DPO), ({"name": "aot"}, {}), ({"name": "aot_unpaired"}, {})],
    ids=str,
)
def test_a_window_that_is_scored_first_does_not_depend_on_its_micro_batches(moved, window, loss, beta):
    policy, pairs, reference = moved
    objective = objective_of(policy, loss, beta, "two")
    expected, one, _ = taken(objective, pairs, SINGLES, reference)
    actual, other, _ = taken(objective, pairs, window, reference)
    assert difference_of(actual, expected) <= 5e-6 * norm_of(expected)
    np.testing.assert_allclose(other.losses, one.losses, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["aot", "aot_unpaired"])
def test_two_passes_give_the_gradient_of_the_whole_window_in_one(moved, name):
    policy, pairs, reference = moved
    expected, whole, _ = taken(objective_of(policy, {"name": name}), pairs, TOGETHER, reference)
    actual, twice, _ = taken(objective_of(policy, {"name": name}, passes="two"), pairs, SINGLES, reference)
    assert difference_of(actual, expected) <= 5e-6 * norm_of(expected)
    assert sorted(twice.losses) == pytest.approx(sorted(whole.losses), rel=1e-4)


@pytest.mark.parametrize("loss", [{}, {"name": "robust"}, {"name": ["sigmoid", "hinge"]}], ids=str)
def test_beta_dpos_two_passes_and_deferred_weighting_agree(moved, loss):
    policy, pairs, reference = moved
    two, seen, step = taken(objective_of(policy, loss, BETA_DPO, "two"), pairs, SINGLES, reference)
    one, also, same = taken(objective_of(policy, loss, BETA_DPO, "deferred"), pairs, SINGLES, reference)
    assert step.weights.tolist() == same.weights.tolist()
    assert difference_of(one, two) <= 5e-6 * norm_of(two)
    np.testing.assert_allclose(also.losses, seen.losses, rtol=1e-5)


def test_beta_dpos_gradient_is_that_of_the_kept_pairs_at_its_beta(moved):
    policy, pairs, reference = moved
    actual, result, step = taken(objective_of(policy, beta=BETA_DPO, passes="two"), pairs, SINGLES, reference)
    kept = [[i] for i in np.flatnonzero(np.array(step.weights))]
    assert len(kept) == 12  # 0.8 of 16, rounded down
    fixed = objective_of(policy, beta={"value": step.beta.item()})
    expected, of_kept, _ = taken(fixed, pairs, kept, reference)
    assert difference_of(actual, expected) <= 5e-6 * norm_of(expected)
    assert result.losses.mean() == pytest.approx(of_kept.losses.mean(), rel=1e-5)


@pytest.mark.parametrize("passes", ["two", "deferred"])
def test_beta_dpo_that_keeps_all_and_follows_nothing_is_sigmoid_dpo(moved, passes):
    policy, pairs, reference = moved
    idle = {"rule": "beta_dpo", "beta_dpo": BetaDpoConfig(alpha=0.0, keep=1.0)}
    plain, seen, _ = taken(objective_of(policy), pairs, SINGLES, reference)
    actual, result, step = taken(objective_of(policy, beta=idle, passes=passes), pairs, SINGLES, reference)
    assert step.beta.item() == np.float32(0.1)
    assert result.losses.tolist() == seen.losses.tolist()
    if passes == "two":  # to the last bit
        assert all(np.array_equal(actual[n], plain[n]) for n in plain)
    assert difference_of(actual, plain) <= 2e-6 * norm_of(plain)


@pytest.mark.parametrize("window", [TOGETHER, TRIPLES])
def test_weighed_pairs_do_not_depend_on_their_micro_batches(moved, window):
    """WPO: a pair's gradient is that of sigmoid DPO times its weight."""
    policy, pairs, reference = moved
    objective = objective_of(policy, {"wpo": True}, passes="two")._replace(agreement=True)
    expected, one, _ = taken(objective, pairs, SINGLES, reference)
    actual, _, _ = taken(objective, pairs, window, reference)
    assert difference_of(actual, expected) <= 5e-6 * norm_of(expected)
    _, plain, _ = taken(objective_of(policy), pairs, SINGLES, reference)
    counts = one.losses / plain.losses
    assert ((counts > 0) & (counts < 10)).all() and counts.std() > 1e-4
    each = [taken(objective_of(policy), pairs, [[i]], reference)[0] for i in range(16)]
    weighed = {n: np.mean([c * g[n] for c, g in zip(counts, each, strict=True)], axis=0) for n in expected}
    assert difference_of(weighed, expected) <= 2e-5 * norm_of(expected)


def test_bco_takes_the_running_mean_of_rewards_off_them(moved):
    """Three windows: the shift is the mean of their mean rewards so far, this one's included."""
    policy, pairs, reference = moved
    objective = objective_of(policy, {"name": "bco_pair", "bco_shift": True}, passes="two")
    objective, seen = objective._replace(shift=True), []
    state = objective.init(0)
    for window in ([[0], [1], [2]], [[3, 4]], [[5], [6, 7]]):
        gradient, result, _, state = take_window(objective, pairs, window, reference, state)
        rewards = 0.1 * (result.policy - result.reference).astype(float)
        seen.append(rewards.mean())
        shift = float(np.mean(seen))
        a, b = (rewards - shift).T
        assert result.losses == pytest.approx(np.logaddexp(0, -a) + np.logaddexp(0, b), rel=1e-5)
        plain = build_loss(LossConfig(name="bco_pair"))

        def shifted(logps, beta, plain=plain, shift=shift):
            return plain(logps._replace(shift=shift), beta)

        once = pair_gradient(policy, shifted, COMPLETION)
        expected, _ = window_gradient(once, pairs, window, reference, mx.array(0.1))
        difference = {
            n: np.array(g) - np.array(dict(tree_flatten(expected))[n]) for n, g in tree_flatten(gradient)
        }
        assert norm_of(difference) <= 5e-6 * norm_of({n: np.array(g) for n, g in tree_flatten(expected)})
    assert abs(shift) > 0.01


def test_pairs_that_do_not_count_are_not_differentiated(moved):
    policy, pairs, reference = moved
    objective = objective_of(policy, beta=BETA_DPO, passes="two")
    built, build = [], objective.gradient.build
    counting = objective.gradient._replace(build=lambda some: built.append(len(some)) or build(some))
    taken(objective._replace(gradient=counting), pairs, SINGLES, reference)
    assert sum(built) == 16 + 12


def test_a_window_without_any_slope_has_the_gradient_0(moved):
    """Hinge, every margin far above 1/beta."""
    policy, pairs, reference = moved
    far = reference - np.array([1e4, 0], np.float32)
    gradient, result, _ = taken(objective_of(policy, {"name": "hinge"}, passes="two"), pairs, SINGLES, far)
    assert result.losses.tolist() == [0] * 16
    assert all((g == 0).all() for g in gradient.values())


def gradient_of(policy, pairs, window, reference):
    compute = pair_gradient(policy, build_loss(LossConfig()), COMPLETION)
    gradient, result = window_gradient(compute, pairs, window, reference, mx.array(0.1))
    return {n: np.array(g) for n, g in tree_flatten(gradient)}, result
