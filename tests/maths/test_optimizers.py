"""The learning rate of every update by hand, the size of the first one, and clipping."""

import json
import math

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
import numpy as np
import pytest

from mlx_dpo.config import load_config
from mlx_dpo.jobs.train import train_run
from mlx_dpo.optimizers import OptimizerConfig, build_optimizer, learning_rate_schedule
from mlx_dpo.training.step import update


def rates(steps, **settings):
    """The rate of every update of a run, in units of the peak."""
    config = OptimizerConfig(**{"learning_rate": 1.0, **settings})
    schedule = learning_rate_schedule(config, config.learning_rate, steps)
    return [mx.array(schedule(mx.array(step))).item() for step in range(steps)]


def cosine(k, n):
    """Where a half cosine over n updates stands before update k."""
    return 0.5 * (1 + math.cos(math.pi * k / n))


class Weights(nn.Module):
    """Two arrays to be updated."""

    def __init__(self, a, b=(0.0,)):
        super().__init__()
        self.a, self.b = mx.array(a), mx.array(b)


def gradient_of(a, b=(0.0,)):
    return {"a": mx.array(a), "b": mx.array(b)}


@pytest.mark.parametrize(
    ("steps", "ratio", "expected"),
    [
        (4, 0.0, [1, 3 / 4, 2 / 4, 1 / 4]),
        (
            5,
            0.2,
            [1, 1, 3 / 4, 2 / 4, 1 / 4],
        ),  # 1 update of warm-up is at the peak, as the k-th of W is at k / W
        (7, 0.4, [1 / 3, 2 / 3, 1, 1, 3 / 4, 2 / 4, 1 / 4]),  # 2.8 updates of warm-up are 3
        (4, 1.0, [1 / 4, 2 / 4, 3 / 4, 1]),
        (4, 0.8, [1 / 4, 2 / 4, 3 / 4, 1]),  # 3.2 are 4
        (1, 0.0, [1]),
        (1, 0.1, [1]),
        (2, 0.1, [1, 1]),
        (10, 0.1, [1, 1, *(k / 9 for k in range(8, 0, -1))]),
    ],
)
def test_warm_up_and_linear_fall_by_hand(steps, ratio, expected):
    assert rates(steps, schedule="linear", warmup_ratio=ratio) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("steps", "ratio", "expected"),
    [
        (4, 0.0, [cosine(k, 4) for k in range(4)]),
        (5, 0.2, [1, *(cosine(k, 4) for k in range(4))]),
        (7, 0.4, [1 / 3, 2 / 3, 1, *(cosine(k, 4) for k in range(4))]),
        (4, 1.0, [1 / 4, 2 / 4, 3 / 4, 1]),
    ],
)
def test_warm_up_and_cosine_by_hand(steps, ratio, expected):
    assert rates(steps, schedule="cosine", warmup_ratio=ratio) == pytest.approx(expected, rel=1e-5)


def test_four_updates_of_cosine_in_figures():
    """(1 + cos 0, 45, 90, 135 degrees) / 2."""
    assert rates(4, warmup_ratio=0.0) == pytest.approx([1, 0.853553, 0.5, 0.146447], abs=1e-6)


def test_a_constant_rate_stays_at_the_peak_after_the_warm_up():
    assert rates(6, schedule="constant", warmup_ratio=0.5) == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1])
    assert rates(3, schedule="constant", warmup_ratio=0.0) == [1, 1, 1]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.1, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 61])
def test_no_update_is_wasted_on_a_rate_of_0_and_the_peak_is_reached(schedule, ratio, steps):
    found = rates(steps, schedule=schedule, warmup_ratio=ratio)
    assert min(found) > 0
    assert max(found) == pytest.approx(1, rel=1e-6)
    assert found.index(max(found)) <= max(0, math.ceil(ratio * steps) - 1)


def test_the_fall_ends_one_update_before_0():
    assert rates(1000, schedule="linear", warmup_ratio=0.0)[-1] == pytest.approx(1 / 1000, rel=1e-4)
    # (1 − cos x) / 2 = x² / 4 for the small x of the last update, a 900th of a half turn
    assert rates(1000, warmup_ratio=0.1)[-1] == pytest.approx((math.pi / 900) ** 2 / 4, rel=0.02)


def test_a_share_that_is_a_whole_number_of_updates_is_not_rounded_up_by_floating_point():
    """0.07 · 100 is 7.000000000000001; the 7th update is at the peak."""
    assert rates(100, schedule="linear", warmup_ratio=0.07)[6] == pytest.approx(1)


def test_the_optimizer_uses_the_schedule_update_by_update():
    optimizer = build_optimizer(OptimizerConfig(schedule="linear", warmup_ratio=0.4, name="lion"), 0.01, 5)
    weights, before, moved = Weights([0.0]), 0.0, []
    for _ in range(5):
        update(weights, optimizer, gradient_of([-1.0]), 0.0)
        moved.append(weights.a.item() - before)
        before = weights.a.item()
    assert moved == pytest.approx([0.005, 0.01, 0.01, 0.02 / 3, 0.01 / 3], rel=1e-4)


@pytest.mark.parametrize("name", ["adamw", "adam"])
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
def test_the_first_update_is_the_learning_rate_not_3_times_it(name, size):
    """Without bias correction it would be 0.1 / sqrt(0.001) = 3.16 times the rate."""
    optimizer = build_optimizer(OptimizerConfig(name=name, warmup_ratio=0.0), 0.01, 10)
    weights = Weights([1.0, 1.0])
    update(weights, optimizer, gradient_of([size, -size]), 0.0)
    assert weights.a.tolist() == pytest.approx([0.99, 1.01], abs=2e-6)


def test_two_updates_of_adamw_by_hand():
    """Gradients 1 then 3: m = 0.39 / 0.19, v = 0.009999 / 0.001999; the second update is m / sqrt(v)."""
    config = OptimizerConfig(learning_rate=0.01, schedule="constant", warmup_ratio=0.0)
    optimizer, weights = build_optimizer(config, config.learning_rate, 10), Weights([0.0])
    update(weights, optimizer, gradient_of([1.0]), 0.0)
    update(weights, optimizer, gradient_of([3.0]), 0.0)
    m = (0.9 * 0.1 * 1 + 0.1 * 3) / (1 - 0.9**2)
    v = (0.999 * 0.001 * 1 + 0.001 * 9) / (1 - 0.999**2)
    assert weights.a.item() == pytest.approx(-0.01 * (1 + m / math.sqrt(v)), rel=1e-4)


@pytest.mark.parametrize(("name", "expected"), [("adamw", 1.89), ("lion", 1.89), ("adam", 1.99)])
def test_weight_decay_takes_its_share_of_the_weight_itself(name, expected):
    """2 · (1 − 0.01 · 5) − 0.01; adam has none."""
    decay = 0.0 if name == "adam" else 5.0
    config = OptimizerConfig(name=name, learning_rate=0.01, warmup_ratio=0.0, weight_decay=decay)
    optimizer, weights = build_optimizer(config, config.learning_rate, 10), Weights([2.0])
    update(weights, optimizer, gradient_of([0.5]), 0.0)
    assert weights.a.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("grad_clip", "moved_a", "moved_b"),
    [
        (1.0, [-0.6, 0.0], [-0.8]),  # the whole gradient (3, 0, 4) has norm 5
        (2.5, [-1.5, 0.0], [-2.0]),
        (5.1, [-3.0, 0.0], [-4.0]),
        (0.0, [-3.0, 0.0], [-4.0]),  # 0 switches it off
    ],
)
def test_clipping_shortens_the_whole_gradient_and_reports_its_norm_before(grad_clip, moved_a, moved_b):
    weights = Weights([0.0, 0.0], [0.0])
    norm = update(weights, optimizers.SGD(1.0), gradient_of([3.0, 0.0], [4.0]), grad_clip)
    assert norm == pytest.approx(5.0)
    assert weights.a.tolist() == pytest.approx(moved_a, rel=1e-5)
    assert weights.b.tolist() == pytest.approx(moved_b, rel=1e-5)


@pytest.mark.parametrize("grad_clip", [0.0, 1.0])
def test_a_gradient_of_0_moves_nothing(grad_clip):
    weights = Weights([1.0, 2.0])
    optimizer = build_optimizer(OptimizerConfig(), 0.1, 10)
    assert update(weights, optimizer, gradient_of([0.0, 0.0]), grad_clip) == 0
    assert weights.a.tolist() == [1.0, 2.0]


def test_a_run_reports_the_rate_that_each_update_used(tmp_path, models, pair_rows, write_rows):
    """10 updates, 3 of them warm-up: peak / 3, 2 peak / 3, peak, then a cosine over 7."""
    settings = [
        f"model.path={models('llama')}",
        f"data.train={write_rows('train.jsonl', pair_rows[:10])}",
        "data.valid=null",
        "adapter.rank=2",
        "training.accumulation=1",
        "training.epochs=1",
        "optimizer.learning_rate=1e-4",
        "optimizer.warmup_ratio=0.3",
        f"run.output={tmp_path / 'run'}",
    ]
    folder = train_run(load_config(None, settings)).folder
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    reported = [row["learning_rate"] for row in rows if "learning_rate" in row]
    expected = [1 / 3, 2 / 3, 1, *(cosine(k, 7) for k in range(7))]
    np.testing.assert_allclose(reported, 1e-4 * np.array(expected), rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be null or above 0, got 0.0"),
        ({"learning_rate": math.nan}, "learning_rate must be null or above 0, got nan"),
        ({"warmup_ratio": 1.1}, "warmup_ratio must be at most 1, got 1.1"),
        ({"warmup_ratio": -0.1}, "warmup_ratio must be at least 0, got -0.1"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0, got -1.0"),
        ({"weight_decay": 0.1, "name": "adam"}, "weight_decay has no effect with adam; use adamw"),
        ({"grad_clip": -1.0}, "grad_clip must be at least 0, got -1.0"),
    ],
)
def test_settings_that_could_only_harm_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**settings)
