"""An update is the mean over a window's pairs, in micro-batches of whatever size."""

import math
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_dpo.data.batches import epoch_windows
from mlx_dpo.jobs import train as run
from mlx_dpo.jobs.train import train_run
from mlx_dpo.losses import LossConfig, build_loss
from mlx_dpo.models.adapters import trainable
from mlx_dpo.models.forward import COMPLETION
from mlx_dpo.scoring import score_pairs, singles
from mlx_dpo.training.step import pair_gradient, window_gradient

from .conftest import train_pairs, weights_of


@pytest.mark.parametrize("train", [8, 11], ids=["full windows", "a partial last window"])
def test_accumulating_8_singles_ends_where_batches_of_8_end(configure, train):
    """Whole runs, measured against the way gone.

    Adam divides by the gradient's size, so one entry whose gradient is itself rounding may differ; all of
    them together may not.
    """
    ended = {}
    for micro_batch, accumulation in ((1, 8), (8, 1), (3, 1)):
        windows = (f"training.micro_batch={micro_batch}", f"training.accumulation={accumulation}")
        config = configure("granite", *windows, "training.epochs=2", train=train, output=f"run-{micro_batch}")
        ended[micro_batch] = weights_of(train_run(config).folder)
    way = norm_of({n: w for n, w in ended[1].items() if n.endswith("lora_b")})
    assert difference_of(ended[8], ended[1]) < 2e-4 * way
    assert difference_of(ended[3], ended[1]) > 0.1 * way, "windows of another size end elsewhere"


def norm_of(weights):
    return math.sqrt(sum(float((w.astype(np.float64) ** 2).sum()) for w in weights.values()))


def difference_of(one, other):
    return norm_of({n: one[n] - other[n] for n in one})


@pytest.fixture
def moved(configure):
    """A policy that has moved, eleven pairs, their reference scores: ((8 + 3) pairs) windows of one epoch."""
    config = configure("granite", "training.accumulation=8", train=11)
    pairs = train_pairs(config)
    policy, _ = run._load_policy(config, Path(config.model.path), pairs)
    mx.random.seed(3)
    noise = [(n, v + 0.02 * mx.random.normal(v.shape)) for n, v in trainable(policy).items()]
    policy.load_weights(noise, strict=False)
    reference = score_pairs(policy, pairs, COMPLETION, singles(pairs)) + 3 * np.eye(11, 2, dtype="f")
    return policy, pairs, reference


@pytest.mark.parametrize("micro_batch", [8, 3])
def test_a_windows_gradient_does_not_depend_on_its_micro_batches(moved, micro_batch):
    policy, pairs, reference = moved
    singles = epoch_windows(pairs, 8, 1, 0, 0)
    batches = epoch_windows(pairs, 8, micro_batch, 0, 0)
    assert [sum(map(len, window)) for window in batches] == [8, 3]
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


def gradient_of(policy, pairs, window, reference):
    compute = pair_gradient(policy, build_loss(LossConfig()), COMPLETION)
    gradient, result = window_gradient(compute, pairs, window, reference, mx.array(0.1))
    return {n: np.array(g) for n, g in tree_flatten(gradient)}, result
