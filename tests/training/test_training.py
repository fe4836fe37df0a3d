"""A run: what it starts from, what it reports, what it leaves behind."""

import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_dpo.config import load_config
from mlx_dpo.errors import DpoError
from mlx_dpo.export.fuse import fuse_run
from mlx_dpo.forward.mlx_attention import BLOCKS
from mlx_dpo.jobs import prepare, training_run
from mlx_dpo.jobs.train import train_run
from mlx_dpo.models.adapters import adapted_table, attach, load_adapter
from mlx_dpo.models.load import load_model
from mlx_dpo.optimizers import OptimizerConfig
from mlx_dpo.settings import save_settings

from ..conftest import half_precision
from ..support.runs import rows_of, train_pairs, weights_of

LN2 = math.log(2)


@pytest.fixture
def run_of(configure, once):
    """Settings of a short run of the tiny Granite by kind of adapter; the run is in its folder."""

    def make(kind="lora"):
        config = configure("granite", f"adapter.type={kind}")
        once(f"a short run, {kind}", lambda: train_run(config))
        return config

    return make


@pytest.mark.parametrize("kind", ["lora", "dora", "full"])
@pytest.mark.parametrize("micro_batch", [1, 3])
def test_the_first_report_is_log_two_with_no_margin(configure, run_of, kind, micro_batch):
    windows = ("training.micro_batch=3", "training.accumulation=2")
    if micro_batch == 1:
        folder = Path(run_of(kind).run.output)
    else:
        folder = train_run(configure("granite", f"adapter.type={kind}", *windows, train=7)).folder
    reports, held_out = rows_of(folder)
    for row, prefix in ((reports[0], ""), (held_out[0], "eval/")):
        assert row[f"{prefix}loss"] == pytest.approx(LN2, abs=5e-7)
        # The reference is scored pair by pair: one by one the policy's first scores are the same to the last
        # bit. Several in a batch are padded to the longest, and some libraries then add in another order.
        assert abs(row[f"{prefix}rewards/margins"]) <= (1e-5 if micro_batch > 1 else 0)
    assert abs(reports[1]["rewards/margins"]) > 1e-5


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_the_first_report_of_a_4_bit_base_is_log_two(configure, kind):
    settings = (f"adapter.type={kind}", "data.valid=null")
    reports, _ = rows_of(train_run(configure("granite-4bit", *settings, train=4)).folder)
    assert reports[0]["loss"] == pytest.approx(LN2, abs=5e-7)
    assert reports[0]["rewards/margins"] == 0


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_a_run_from_an_adapter_takes_that_adapter_as_its_reference(configure, tmp_path, kind):
    far = ("optimizer.learning_rate=1e-2", "training.accumulation=2")
    first = train_run(configure("granite", f"adapter.type={kind}", *far)).folder
    # The settings that the adapter does not have are taken from it: rank 4, not 16.
    config = configure("granite", f"model.adapter={first}", "adapter.rank=16", output="second")
    second = train_run(config).folder
    reports, held_out = rows_of(second)
    assert reports[0]["loss"] == pytest.approx(LN2, abs=5e-7)
    assert reports[0]["rewards/margins"] == 0
    # Its reference is what the first run ended as, not the bare base.
    _, ended = rows_of(first)
    assert held_out[0]["eval/logps/chosen"] == pytest.approx(ended[-1]["eval/logps/chosen"], abs=1e-3)
    assert abs(ended[-1]["eval/logps/chosen"] - ended[0]["eval/logps/chosen"]) > 0.1
    assert load_config(second / "config.yaml").adapter.rank == 4


def test_the_same_settings_give_the_same_run_and_another_seed_another(configure, run_of):
    first = weights_of(Path(run_of().run.output))
    again = weights_of(train_run(configure(output="b")).folder)
    other = weights_of(train_run(configure("granite", "training.seed=1", output="c")).folder)
    assert all(np.array_equal(first[n], again[n]) for n in first)
    assert not all(np.array_equal(first[n], other[n]) for n in first)


def test_a_run_repeats_from_its_own_settings_file(run_of, tmp_path):
    first = Path(run_of().run.output)
    config = load_config(first / "config.yaml", [f"run.output={tmp_path / 'again'}"])
    again = train_run(config).folder
    assert weights_of(first).keys() == weights_of(again).keys()
    assert all(np.array_equal(w, weights_of(again)[n]) for n, w in weights_of(first).items())


def test_metrics_have_the_published_names_and_count_every_pair_once(configure):
    folder = train_run(configure("granite", "training.epochs=2", train=10, valid=1)).folder
    reports, held_out = rows_of(folder)
    published = (
        "step epoch loss rewards/chosen rewards/rejected rewards/margins rewards/accuracies logps/chosen "
        "logps/rejected beta learning_rate grad_norm tokens tokens_per_second pairs_per_second "
        "peak_memory_gb process_memory_gb planned_memory_gb"
    )
    assert all(set(published.split()) == set(row) for row in reports)
    assert [row["step"] for row in reports] == [1, 2, 3, 4, 5, 6]
    assert reports[-1]["epoch"] == 2
    assert held_out[0]["step"] == 0 and held_out[-1]["step"] == 6
    config = load_config(folder / "config.yaml")
    pairs = train_pairs(config)
    assert reports[-1]["tokens"] == 2 * sum(p.tokens for p in pairs)


def test_training_separates_the_pairs_it_saw(configure):
    settings = ("training.epochs=10", "optimizer.learning_rate=5e-3", "data.valid=null")
    reports, _ = rows_of(train_run(configure("llama", *settings, "training.eval_steps=99")).folder)
    assert reports[-1]["rewards/accuracies"] == 1
    assert reports[-1]["loss"] < 0.5 * LN2


@pytest.mark.parametrize("kind", ["lora", "dora", "full"])
def test_the_run_folder_loads_in_mlx_lm_as_it_stands(run_of, models, kind):
    from mlx_lm import load

    folder = Path(run_of(kind).run.output)
    theirs, _ = load(str(models("granite")), adapter_path=str(folder))
    ours, _ = load_model(models("granite"))
    base = np.array(ours(mx.array([[5, 6, 7]])))
    load_adapter(ours, folder)
    logits = np.array(ours(mx.array([[5, 6, 7]])))
    np.testing.assert_array_equal(np.array(theirs(mx.array([[5, 6, 7]]))), logits)
    assert np.abs(logits - base).max() > 1e-3


def test_the_default_adapter_reaches_every_linear_layer_of_every_block(models):
    model, _ = load_model(models("granite"))
    attach(model, load_config(None).adapter)
    table = {name: blocks for name, blocks, _ in adapted_table(model)}
    assert table == {
        **{f"mlp.{n}": 3 for n in ("gate_proj", "up_proj", "down_proj")},
        **{f"mamba.{n}": 2 for n in ("in_proj", "out_proj")},
        **{f"self_attn.{n}": 1 for n in ("q_proj", "k_proj", "v_proj", "o_proj")},
    }


def test_targets_and_layers_choose_what_is_adapted(models):
    model, _ = load_model(models("granite"))
    config = load_config(None, ["adapter.targets=[q_proj, mamba.in_proj]", "adapter.layers=2"])
    attach(model, config.adapter)
    assert [row[:2] for row in adapted_table(model)] == [("mamba.in_proj", 1), ("self_attn.q_proj", 1)]


def test_dropout_and_checkpointing_never_meet(configure):
    config = configure("granite", "adapter.dropout=0.1")
    model, _ = load_model(Path(config.model.path))
    assert not prepare._usual_layout(config, model, BLOCKS, None).checkpointing
    with pytest.raises(DpoError, match="dropout cannot be used with gradient checkpointing"):
        configure("granite", "adapter.dropout=0.1", "training.gradient_checkpointing=on")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_leaves_a_loadable_adapter_and_exits_130(configure, models, tmp_path, number):
    config = configure("granite", "training.epochs=200")
    save_settings(config, tmp_path / "run.yaml")
    process = subprocess.Popen(
        [sys.executable, "-m", "mlx_dpo", "train", "--config", str(tmp_path / "run.yaml")],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    folder = tmp_path / "run"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (folder / "metrics.jsonl").exists() and len(rows_of(folder)[0]) >= 3:
            break
        time.sleep(0.05)
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "interrupted: " in errors and "run the same command again" in errors
    model, _ = load_model(models("granite"))
    load_adapter(model, folder)
    # B starts as exact zeros: what was saved is the moved adapter, not the first.
    last = sorted((folder / "checkpoints").iterdir())[-1]
    assert all(w.any() for n, w in weights_of(last).items() if n.endswith("lora_b"))


def test_full_training_of_half_precision_weights_is_not_lost_to_rounding(configure, models, tmp_path):
    """One update of 1e-5 is below what bfloat16 can add to these weights; the trained ones are float32."""
    folder = half_precision(models("llama"), tmp_path / "half")
    rate = ("optimizer.learning_rate=1e-5", "optimizer.schedule=constant", "optimizer.warmup_ratio=0")
    config = configure("llama", f"model.path={folder}", "adapter.type=full", *rate, train=4)
    run_folder = train_run(config).folder
    base, _ = load_model(folder)
    before = {n: np.array(v.astype(mx.float32)) for n, v in tree_flatten(base.parameters())}
    after = weights_of(run_folder)
    name = "model.layers.0.mlp.up_proj.weight"
    assert after[name].dtype == np.float32
    assert np.abs(after[name] - before[name]).max() == pytest.approx(1e-5, rel=0.02)
    reports, _ = rows_of(run_folder)
    assert reports[0]["loss"] == pytest.approx(LN2, abs=5e-7)


@pytest.mark.parametrize("kind", ["lora", "dora", "full"])
def test_a_half_precision_base_stays_so_when_fused(configure, models, tmp_path, kind):
    folder = half_precision(models("granite"), tmp_path / "half")
    kinds = (f"adapter.type={kind}", "data.valid=null", "training.accumulation=2")
    config = configure("granite", f"model.path={folder}", *kinds, train=4)
    fused = fuse_run(str(folder), train_run(config).folder, tmp_path / "fused")
    one, other = (dict(tree_flatten(load_model(f)[0].parameters())) for f in (folder, fused))
    assert {n: v.dtype for n, v in one.items()} == {n: v.dtype for n, v in other.items()}
    moved = [n for n in one if not mx.array_equal(one[n], other[n])]
    assert any("mamba.in_proj" in n for n in moved)


def test_a_run_that_diverges_stops_and_keeps_the_last_good_adapter(configure, monkeypatch):
    """The first update is finite and ruinous; the second would be NaN. No rate that may be set does that."""
    (rate,) = (f for f in fields(OptimizerConfig) if f.name == "learning_rate")
    monkeypatch.delitem(rate.metadata["bounds"], "most")
    ruinous = ("optimizer.learning_rate=1e30", "optimizer.grad_clip=0", "optimizer.warmup_ratio=0")
    config = configure("granite", *ruinous)
    with pytest.raises(DpoError, match="not finite"):
        train_run(config)
    folder = Path(config.run.output)
    assert all(np.isfinite(w).all() for w in weights_of(folder).values())
    assert "NaN" not in (folder / "metrics.jsonl").read_text()


def test_a_setting_that_the_starting_adapter_does_not_have_is_refused(configure):
    first = train_run(configure(train=4)).folder
    config = configure("granite", f"model.adapter={first}", "adapter.scale=7", output="second")
    with pytest.raises(DpoError, match=r"adapter.scale: is 7.0, but the adapter .* has 2.0"):
        train_run(config)


def test_a_starting_adapter_trained_with_dropout_goes_on_with_the_runs_own(configure):
    """Dropout is no part of an adapter's weights, and excludes checkpointing."""
    first = train_run(configure("llama", "adapter.dropout=0.1", train=4)).folder
    again = ("llama", f"model.adapter={first}", "training.gradient_checkpointing=on")
    second = train_run(configure(*again, train=4, output="second")).folder
    assert load_config(second / "config.yaml").adapter.dropout == 0


def test_a_run_from_an_adapter_draws_the_same_dropout_again(configure):
    first = train_run(configure("llama", train=4)).folder
    again = ("llama", f"model.adapter={first}", "adapter.dropout=0.3", "data.valid=null")
    one, other = (train_run(configure(*again, train=8, output=name)).folder for name in ("one", "other"))
    assert all(np.array_equal(w, weights_of(other)[n]) for n, w in weights_of(one).items())


def test_an_interrupt_ends_a_held_out_evaluation_after_a_batch(configure, monkeypatch):
    """Scored are held-out pairs, and these after an update: there the first is the last."""
    scored, own = [], training_run.score_pairs

    def score(model, pairs, forward, batches, progress=lambda count: None):
        def note(count):
            scored[-1] += 1
            if len(scored) == 2:
                os.kill(os.getpid(), signal.SIGINT)
            progress(count)

        scored.append(0)
        return own(model, pairs, forward, batches, note)

    monkeypatch.setattr(training_run, "score_pairs", score)
    with pytest.raises(KeyboardInterrupt):
        train_run(configure("llama", "training.eval_steps=1"))
    assert scored[1] == 1 < scored[0]


def test_held_out_margins_of_an_unmoved_half_precision_policy_are_exactly_0(configure, models, tmp_path):
    """Scores depend on who shares a batch, by rounding; pairs are judged one by one, as the reference was."""
    folder = half_precision(models("granite"), tmp_path / "half")
    config = configure("granite", f"model.path={folder}", "training.micro_batch=3", train=6)
    _, held_out = rows_of(train_run(config).folder)
    assert held_out[0]["eval/rewards/margins"] == held_out[0]["eval/rewards/accuracies"] == 0
    assert held_out[0]["eval/loss"] == pytest.approx(LN2, abs=5e-7)
