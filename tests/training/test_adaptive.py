"""Whole runs whose beta moves, and with losses that compare the pairs of a window."""

import itertools
import json
import math

import mlx.core as mx
import numpy as np
import pytest

from mlx_dpo.config import load_config
from mlx_dpo.errors import DpoError
from mlx_dpo.jobs.train import train_run
from mlx_dpo.losses import LOSSES, BetaConfig, beta_rule
from mlx_dpo.losses.beta_dpo import BetaDpoConfig
from mlx_dpo.losses.beta_rule import exact
from mlx_dpo.losses.risk_beta import RiskConfig
from mlx_dpo.monitoring.margin_files import margin_summary

from ..support.runs import rows_of, weights_of

LN2 = math.log(2)
ALONE = "data.valid=null"
RISK = ("beta.rule=risk", "beta.risk.warmup_steps=2", "beta.risk.alpha=0.1")
BETA_DPO = ("beta.rule=beta_dpo", "beta.beta_dpo.alpha=0.6")
DEFERRED = (*BETA_DPO, "beta.beta_dpo.deferred=true")


def test_a_run_with_risk_reports_what_its_rule_saw(configure):
    settings = (*RISK, "training.epochs=2", "training.accumulation=2")
    reports, held_out = rows_of(train_run(configure("llama", *settings, train=10)).folder)
    names = {f"risk/{name}" for name in ("p_hat", "tau", "fail", "u_k", "s_k")}
    assert [names <= set(row) for row in reports] == [False] * 2 + [True] * 8
    # A window has the beta of before it, so the first that may differ is the fourth.
    assert [row["beta"] for row in reports[:3]] == pytest.approx([0.1] * 3)
    for before, after in itertools.pairwise(reports[2:]):
        assert after["beta"] == pytest.approx(before["beta"] * math.exp(0.1 * before["risk/s_k"]), rel=1e-5)
    assert reports[-1]["beta"] != pytest.approx(0.1)
    assert held_out[0]["eval/loss"] == pytest.approx(LN2, abs=5e-7)


def test_a_run_with_beta_dpo_reports_what_its_rule_saw(configure):
    reports, _ = rows_of(train_run(configure("llama", *BETA_DPO, "training.epochs=2")).folder)
    names = "beta_used M0 sigma keep_ratio gap_mean gap_selected_mean"
    assert all({f"beta_dpo/{name}" for name in names.split()} <= set(row) for row in reports)
    assert reports[0]["loss"] == pytest.approx(LN2, abs=5e-7)
    assert all(row["beta_dpo/keep_ratio"] == 0.75 for row in reports)  # 3 of 4
    for row in reports:
        assert row["beta"] == pytest.approx(row["beta_dpo/beta_used"], rel=1e-7)
        follows = 0.1 * (1 + 0.6 * (row["beta_dpo/gap_selected_mean"] - row["beta_dpo/M0"]))
        assert row["beta"] == pytest.approx(max(follows, 1e-3), rel=1e-4)
        # The reported margin is of all pairs, kept or not.
        assert row["rewards/margins"] == pytest.approx(
            row["beta"] * row["beta_dpo/gap_mean"], rel=1e-4, abs=1e-7
        )


def test_beta_dpo_that_keeps_all_and_follows_nothing_ends_where_dpo_ends(configure):
    plain = train_run(configure("llama", ALONE, output="plain")).folder
    idle = (*BETA_DPO, "beta.beta_dpo.alpha=0", "beta.beta_dpo.keep=1", ALONE)
    same = train_run(configure("llama", *idle, output="idle")).folder
    assert all(np.array_equal(w, weights_of(same)[n]) for n, w in weights_of(plain).items())


def test_deferred_weighting_ends_where_two_passes_end(configure):
    two = rows_of(train_run(configure("llama", *BETA_DPO, ALONE, output="two")).folder)[0]
    one = rows_of(train_run(configure("llama", *DEFERRED, ALONE, output="one")).folder)[0]
    for a, b in zip(one, two, strict=True):
        assert (a["loss"], a["beta"]) == pytest.approx((b["loss"], b["beta"]), rel=1e-3)


@pytest.mark.parametrize("name", LOSSES)
def test_a_run_trains_with_every_loss(configure, name):
    """Its report is its own loss: lower after two epochs at a high rate than before."""
    rate = ("optimizer.learning_rate=3e-3", "training.epochs=3", "optimizer.warmup_ratio=0")
    folder = train_run(configure("llama", f"loss.name={name}", *rate, ALONE, train=4)).folder
    reports, _ = rows_of(folder)
    assert reports[-1]["loss"] < reports[0]["loss"]


def test_a_weighted_sum_of_losses_is_what_it_says(configure):
    settings = (
        "loss.name=[sigmoid, bco_pair, sft]",
        "loss.weights=[0.8, 0.2, 0.5]",
        "training.accumulation=20",
        ALONE,
    )
    summed, _ = rows_of(train_run(configure("llama", *settings)).folder)
    sft, _ = rows_of(train_run(configure("llama", "loss.name=sft", *settings[2:], output="sft")).folder)
    assert summed[0]["loss"] == pytest.approx(0.8 * LN2 + 0.2 * 2 * LN2 + 0.5 * sft[0]["loss"], rel=1e-6)


def loaded_array(array):
    return exact(array) if array.dtype == np.float64 else mx.array(array)


@pytest.mark.parametrize("rule", ["risk", "beta_dpo"])
def test_a_state_that_was_saved_and_loaded_goes_on_as_if_it_had_not_been(tmp_path, rule):
    config = BetaConfig(rule=rule, risk=RiskConfig(warmup_steps=6), beta_dpo=BetaDpoConfig(keep=0.5))
    rule, rng = beta_rule(config), np.random.default_rng(0)
    windows = [mx.array(rng.normal(k / 5, 1, 8).astype(np.float32)) for k in range(20)]

    def trace(state, windows):
        steps = []
        for margins in windows:
            step, state = rule.update(margins, state)
            steps.append(
                (step.beta.item(), step.weights.tolist(), {k: v.item() for k, v in step.metrics.items()})
            )
        return steps, state

    for stop in (0, 3, 6, 11):  # in the warm-up, at its end, after it
        first, state = trace(rule.init(5), windows[:stop])
        np.savez(tmp_path / "state.npz", **state._asdict())
        loaded = type(state)(**{n: loaded_array(a) for n, a in np.load(tmp_path / "state.npz").items()})
        assert first + trace(loaded, windows[stop:])[0] == trace(rule.init(5), windows)[0]


def test_margin_files_hold_every_window(configure):
    settings = ("run.margin_files=true", "training.epochs=2", *RISK, ALONE)
    folder = train_run(configure("llama", *settings, train=10)).folder
    reports, _ = rows_of(folder)
    rows = [
        json.loads(line)
        for epoch in ("epoch_000", "epoch_001")
        for line in (folder / "margins" / epoch / "margins.jsonl").read_text().splitlines()
    ]
    assert [(row["epoch"], row["step"], row["batch_size"]) for row in rows] == [
        *[(0, 1, 4), (0, 2, 4), (0, 3, 2)],
        *[(1, 4, 4), (1, 5, 4), (1, 6, 2)],
    ]
    for row, report in zip(rows, reports, strict=True):
        margins = np.load(folder / "margins" / f"epoch_{row['epoch']:03d}" / row["npy"])
        assert margins.shape == (row["batch_size"],)
        assert report["beta"] * margins.mean() == pytest.approx(report["rewards/margins"], rel=1e-4, abs=1e-8)
        assert row["sample"] == pytest.approx(margins.tolist())


def test_a_margin_summary_by_hand():
    row = margin_summary(np.array([4.0, -1.0, 0.0, 1.0, 2.0], np.float32))
    assert row.pop("sample") == [4, -1, 0, 1, 2]
    assert row == pytest.approx(
        {
            **{"batch_size": 5, "mean": 1.2, "std": math.sqrt(2.96), "min": -1, "max": 4},
            **{"p10": -0.6, "median": 1, "p90": 3.2, "pos_frac": 0.6},
        }
    )
    assert len(margin_summary(np.zeros(100, np.float32))["sample"]) == 32


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["adapter.dropout=0.1", *BETA_DPO], "dropout cannot be used with beta.rule=beta_dpo"),
        (
            ["adapter.dropout=0.1", "loss.name=aot"],
            "dropout cannot be used with loss.name=aot and",
        ),
        (["adapter.dropout=0.1", "loss.wpo=true"], "dropout cannot be used with loss.wpo"),
        (["loss.name=sft", *RISK], "sft has no beta"),
        (["loss.name=aot", "training.accumulation=1"], "aot .* the window has one pair"),
        ([*RISK, "training.accumulation=1"], "risk .* the window has one pair"),
        (["loss.name=aot", *BETA_DPO], "beta_dpo leaves out .* aot has no loss per pair"),
        (
            [*BETA_DPO, "beta.beta_dpo.deferred=true", "training.micro_batch=2"],
            "a micro-batch must have one pair",
        ),
        (
            [*BETA_DPO, "beta.beta_dpo.deferred=true", "loss.name=ipo"],
            "the loss ipo",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(DpoError, match=message):
        load_config(None, settings)


def test_a_run_with_generation_a_moves_beta_before_its_window(configure):
    settings = (*RISK, "beta.risk.generation=A", "training.accumulation=2", ALONE)
    reports, _ = rows_of(train_run(configure("llama", *settings, train=6)).folder)
    moved = 0.1 * math.exp(0.1 * reports[2]["risk/s_k"])
    assert [row["beta"] for row in reports[:3]] == pytest.approx([0.1, 0.1, moved], rel=1e-5)


def test_a_run_with_wpo_weighs_its_pairs(configure):
    """Every loss of the first window is ln 2, times a weight that is not 1."""
    reports, _ = rows_of(train_run(configure("llama", "loss.wpo=true", ALONE, train=4)).folder)
    assert 0 < reports[0]["loss"] != pytest.approx(LN2, rel=1e-3)
    assert reports[0]["rewards/margins"] == 0


def test_a_run_with_bcos_shift_differs_from_one_without_from_the_second_update_on(configure):
    """Before it all rewards are 0, and so is their mean."""
    name = ("loss.name=bco_pair", "optimizer.warmup_ratio=0", "training.accumulation=2", ALONE)
    plain, _ = rows_of(train_run(configure("llama", *name, train=4, output="plain")).folder)
    more = (*name, "loss.bco_shift=true")
    shifted, _ = rows_of(train_run(configure("llama", *more, train=4, output="shift")).folder)
    assert shifted[0]["loss"] == plain[0]["loss"]
    assert shifted[1]["logps/chosen"] == pytest.approx(plain[1]["logps/chosen"], rel=1e-6)
    assert shifted[1]["loss"] != plain[1]["loss"]


def test_a_warm_up_that_leaves_no_window_another_beta_is_refused(configure):
    """Generation B moves beta after a window: the fifth of five windows has the beta of after the fourth."""
    settings = ("beta.rule=risk", "training.accumulation=2", ALONE)
    for warmup in (4, 5):
        config = configure("llama", *settings, f"beta.risk.warmup_steps={warmup}", train=10)
        with pytest.raises(DpoError, match="only 5: beta would never"):
            train_run(config)
    config = configure("llama", *settings, "beta.risk.warmup_steps=3", train=10)
    reports, _ = rows_of(train_run(config).folder)
    assert reports[-1]["beta"] != pytest.approx(0.1, rel=1e-6)


def test_a_warm_up_as_long_as_the_run_is_refused(configure):
    config = configure("llama", "beta.rule=risk", train=20)
    with pytest.raises(DpoError, match=r"120 updates, .* only 5: beta would never"):
        train_run(config)
