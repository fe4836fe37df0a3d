"""Changes that are accepted: the run goes on from what was good, and by the new settings."""

import json

import pytest

from mlx_dpo.errors import DpoError
from mlx_dpo.jobs.train import train_run
from mlx_dpo.training.checkpoint_folder import CHECKPOINTS

from ..monitoring.test_alarm_runs import EASY
from ..support.runs import rows_of
from .test_changed import again


def notes(folder, event):
    rows = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return [row["what"] for row in rows if row["event"] == event]


def test_a_run_that_the_guard_ended_goes_on_from_its_best_checkpoint(configure, tmp_path):
    config = configure("llama", *EASY, "training.epochs=2", "training.accumulation=2", train=20, valid=4)
    folder = train_run(config).folder
    best, ruined = (int(path.name) for path in sorted((folder / CHECKPOINTS).iterdir())[-2:])
    milder = again(config, tmp_path, "optimizer.learning_rate=1e-9")
    train_run(milder, accept_changes=True)
    assert notes(folder, "resumed") == [f"continuing from {folder / CHECKPOINTS / f'{best:06d}'}"]
    reports, held_out = rows_of(folder)
    assert [row["step"] for row in reports] == list(range(1, 21))
    assert reports[ruined - 1]["learning_rate"] < 1e-8
    margins = {row["step"]: row["eval/rewards/margins"] for row in held_out}
    assert margins[20] == pytest.approx(margins[best], rel=1e-3)


@pytest.fixture
def half(configure, once):
    """Settings of a run that its patience ended after 2 of 10 updates; by its rate nothing moved."""
    settings = ("training.eval_steps=1", "training.patience=2", "optimizer.learning_rate=1e-30")
    config = configure("llama", *settings, "training.accumulation=2", train=20)
    once("a run that its patience ended", lambda: train_run(config))
    return config


def test_a_new_beta_counts_from_then_on_and_what_it_measures_is_measured_anew(half, tmp_path):
    folder = train_run(again(half, tmp_path, "beta.value=0.4"), accept_changes=True).folder
    reports, held_out = rows_of(folder)
    (note,) = notes(folder, "resumed")
    start = int(note.rsplit("/", 1)[1])
    assert all(row["beta"] == pytest.approx(0.4 if row["step"] > start else 0.1) for row in reports)
    assert reports[-1]["step"] > start
    assert [row["step"] for row in held_out].count(start) == 2


@pytest.mark.parametrize("rule", ["risk", "beta_dpo"])
def test_another_rule_begins_with_its_own_state(half, tmp_path, rule):
    more = (f"beta.rule={rule}", "beta.risk.warmup_steps=1", "training.patience=null")
    folder = train_run(again(half, tmp_path, *more), accept_changes=True).folder
    reports, _ = rows_of(folder)
    assert any(name.startswith(f"{rule}/") for name in reports[-1])
    back = again(half, tmp_path, "training.patience=null", "training.epochs=2")
    reports, _ = rows_of(train_run(back, accept_changes=True).folder)
    assert reports[-1]["step"] == 20 and reports[-1]["beta"] == pytest.approx(0.1)


def test_a_run_can_go_on_without_held_out_pairs_or_with_samples_of_them(half, tmp_path):
    train_run(again(half, tmp_path, "data.valid=null"), accept_changes=True)
    more = ("training.samples=2", "training.sample_tokens=8", "training.epochs=2")
    folder = train_run(again(half, tmp_path, *more), accept_changes=True).folder
    assert "eval/samples/tokens" in rows_of(folder)[1][-1]


def test_an_adapter_of_another_form_is_refused_and_the_run_stays_as_it_was(half, tmp_path):
    wider = again(half, tmp_path, "adapter.rank=8")
    folder = tmp_path / "run"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(DpoError, match=r"the adapter .*: adapter\.rank is 8, was 4"):
        train_run(wider, accept_changes=True)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_run_that_is_to_end_with_its_best_adapter_after_all_does(configure, tmp_path):
    """It was to end with its last one, which the guard has found to be ruined."""
    config = configure("llama", *EASY, "training.select=last", "training.accumulation=2", train=20, valid=4)
    folder = train_run(config).folder
    best = sorted((folder / CHECKPOINTS).iterdir())[-2]
    assert not same_weights(folder, best)
    stuck = again(config, tmp_path, "training.select=best", "optimizer.learning_rate=1e-30")
    train_run(stuck, accept_changes=True)
    assert same_weights(folder, best)


def same_weights(one, other):
    name = "adapters.safetensors"
    return (one / name).read_bytes() == (other / name).read_bytes()


def test_alarms_about_samples_begin_anew_with_longer_ones(half, tmp_path):
    """A first evaluation with answers of 2 tokens, all of them different, says nothing of longer ones."""
    more = ("training.samples=2", "training.patience=null", "training.eval_steps=5")
    short = again(half, tmp_path, *more, "training.sample_tokens=2", "training.epochs=1")
    train_run(short, accept_changes=True)
    longer = again(half, tmp_path, *more, "training.sample_tokens=40", "training.epochs=2")
    folder = train_run(longer, accept_changes=True).folder
    (*_, newest) = sorted((folder / CHECKPOINTS).iterdir())
    assert json.loads((newest / "state.json").read_text())["facts"]["forgotten"] > 0
