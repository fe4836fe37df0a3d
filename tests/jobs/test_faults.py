"""Faults in the middle of a run: NaN, a full or locked disk, no memory; nothing is lost to any of them."""

import json
import os
import re
import subprocess
from itertools import product
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_map

from mlx_dpo.cli import main
from mlx_dpo.errors import DpoError
from mlx_dpo.jobs import run_folder
from mlx_dpo.jobs.train import train_run
from mlx_dpo.machine.out_of_memory import SHORTER, explained
from mlx_dpo.settings import save_settings
from mlx_dpo.training import trainer
from mlx_dpo.training.checkpoint_folder import CHECKPOINTS, newest_checkpoint

from ..conftest import some
from ..support.mistakes import assert_told
from ..support.runs import rows_of
from .test_resume import EPOCHS, outcome


def events_of(folder):
    """(step, event, what) of a run's events."""
    path = folder / "events.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [(row["step"], row["event"], row["what"]) for row in rows]


@pytest.fixture
def ruined(monkeypatch):
    """From now on the windows of these updates come back with a loss or a gradient that is NaN."""

    def ruin(kind, *steps):
        own, calls = trainer.take_window, [0]

        def take(*arguments):
            mean, result, *others = own(*arguments)
            calls[0] += 1
            if calls[0] in steps and kind == "loss":
                losses = result.losses.copy()
                losses[1] = np.nan
                result = result._replace(losses=losses)
            if calls[0] in steps and kind == "gradient":
                mean = tree_map(lambda g: g * mx.nan, mean)
            return mean, result, *others

        monkeypatch.setattr(trainer, "take_window", take)

    return ruin


KINDS, RULES = ("loss", "gradient"), ("fixed", "risk", "beta_dpo")


@pytest.mark.parametrize(
    ("kind", "rule"),
    some(product(KINDS, RULES), ("gradient", "fixed"), ("loss", "risk"), ("loss", "beta_dpo")),
)
def test_a_window_that_is_not_finite_is_skipped_and_leaves_all_as_it_was(configure, ruined, kind, rule):
    settings = ("llama", f"beta.rule={rule}", "beta.risk.warmup_steps=1", "training.keep_checkpoints=9")
    ruined(kind, 3)
    config = configure(
        *settings, "training.eval_steps=1", "training.max_skipped=1000", "training.accumulation=2"
    )
    folder = train_run(config).folder
    reports, held_out = rows_of(folder)
    assert [row["step"] for row in reports] == [1, 2, 4]
    assert [row["step"] for row in held_out] == [0, 1, 2, 3, 4]
    before, after = ((folder / CHECKPOINTS / f"00000{n}" / "adapters.safetensors") for n in (2, 3))
    assert before.read_bytes() == after.read_bytes()
    with np.load(before.parent / "state.npz") as old, np.load(after.parent / "state.npz") as new:
        assert all(np.array_equal(old[n], new[n]) for n in old if not n.startswith("interval"))
    ((step, event, what),) = [e for e in events_of(folder) if e[1] == "skipped"]
    assert (step, event) == (3, "skipped")
    assert what.startswith(f"the {kind} is not finite at step 3, which is skipped: {config.data.train}:")
    named = what.rsplit(": ", 1)[1].split(", ")
    assert len(named) == (1 if kind == "loss" else 2)


def test_after_too_many_in_a_row_the_run_stops_with_its_last_good_checkpoint(configure, ruined):
    ruined("loss", 2, 4, 5, 6)  # alone it is skipped, three in a row are too many
    settings = ("training.eval_steps=1", "training.keep_checkpoints=9", "training.max_skipped=3")
    config = configure("llama", *settings, "training.accumulation=2", train=20)
    with pytest.raises(
        DpoError, match="the loss is not finite at step 6, nor in the 2 steps before"
    ) as error:
        train_run(config)
    assert f"{config.data.train}:" in error.value.where
    folder = Path(config.run.output)
    checkpoint = newest_checkpoint(folder)
    assert checkpoint.facts["step"] == 5
    weights = mx.load(str(checkpoint.folder / "adapters.safetensors"))
    assert all(mx.isfinite(w).all().item() for w in weights.values())
    assert [s for s, event, _ in events_of(folder) if event == "skipped"] == [2, 4, 5, 6]


@pytest.fixture
def disk(tmp_path):
    """A file system of its own, to be filled and locked: its folder and a way to change it."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        return subprocess.run(["mount", *options.split(), str(folder)], capture_output=True).returncode

    if os.geteuid() != 0 or mount("-t tmpfs -o size=200m tmpfs"):
        pytest.skip("only root can mount a small disk")

    def lock():
        """Make it read-only for all that is opened from now on: the run has its own lock file open."""
        assert mount(f"--bind {folder}") == mount("-o remount,bind,ro") == 0

    def unlock():
        subprocess.run(["umount", str(folder)], check=True)

    try:
        yield folder, lock, unlock
    finally:
        while os.path.ismount(folder):
            unlock()


@pytest.fixture
def at_update(monkeypatch):
    """Let something happen before the update of this number."""

    def happen(number, what):
        own, calls = trainer.take_window, [0]

        def take(*arguments):
            calls[0] += 1
            if calls[0] == number:
                what()
            return own(*arguments)

        monkeypatch.setattr(trainer, "take_window", take)

    return happen


def test_a_second_ctrl_c_in_the_middle_of_an_update_costs_only_the_way_back(configure, monkeypatch):
    """The optimiser has moved the policy, and nothing else knows of it: what is saved is from before."""
    settings = ("llama", *EPOCHS, "training.eval_steps=3")
    settings += ("training.accumulation=2",)
    whole = outcome(train_run(configure(*settings, train=6, valid=1)).folder)
    config, own, calls = configure(*settings, train=6, valid=1, output="again"), trainer.update, []

    def update(*arguments):
        norm = own(*arguments)
        calls.append(norm)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return norm

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trainer, "update", update)
        train_run(config)
    assert newest_checkpoint(Path(config.run.output)).facts["step"] == 3
    assert outcome(train_run(config).folder) == whole


def fill(folder):
    """Leave no room."""
    with open(folder / "filler", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(2**16))
        except OSError:
            pass


@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_a_disk_that_fills_or_locks_in_the_middle_costs_nothing_but_the_way_back(
    configure, disk, at_update, monkeypatch, capsys, fault
):
    folder, lock, unlock = disk
    settings = ("llama", *EPOCHS, "training.eval_steps=1")
    whole = outcome(train_run(configure(*settings)).folder)
    config = configure(*settings, f"run.output={folder / 'run'}")
    with monkeypatch.context() as patch:
        at_update(4, (lambda: fill(folder)) if fault == "full" else lock)
        with pytest.raises(DpoError) as error:
            train_run(config)
        patch.undo()
    reason = {"full": "No space left on device|Unable to write", "read-only": "Read-only file system"}[fault]
    assert re.match(f"cannot be written: .*({reason})", error.value.what)
    assert error.value.where.startswith(str(folder / "run"))
    assert newest_checkpoint(folder / "run").facts["step"] >= 3
    (folder / "filler").unlink() if fault == "full" else unlock()
    train_run(config)
    assert outcome(folder / "run") == whole
    assert f"continuing from {folder / 'run' / CHECKPOINTS}" in capsys.readouterr().err


SIGNS = {
    "[malloc] Unable to allocate 8589934592 bytes.": "memory",
    "[metal::malloc] Attempting to allocate 48736917632 bytes which is greater than the maximum allowed "
    "buffer size of 30150672384 bytes.": "memory",
    "[METAL] Command buffer execution failed: Insufficient Memory "
    "(00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)": "memory",
    "[METAL] Command buffer execution failed: Caused GPU Timeout Error "
    "(00000002:kIOGPUCommandBufferCallbackErrorTimeout)": "watchdog",
    "[METAL] Command buffer execution failed: Impacting Interactivity "
    "(0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity)": "watchdog",
}


@pytest.mark.parametrize("text", SIGNS)
def test_what_the_system_says_is_explained(text):
    with pytest.raises(DpoError) as error, explained(lambda: "use less"):
        raise RuntimeError(text)
    told = error.value.what.removesuffix(f": {text}")
    assert told != error.value.what and SIGNS[text] in told
    assert error.value.hint == (SHORTER if SIGNS[text] == "watchdog" else "use less")


def test_other_errors_are_not_explained_away():
    with pytest.raises(RuntimeError, match="shapes"), explained(lambda: ""):
        raise RuntimeError("[matmul] shapes do not fit")


def test_when_memory_runs_out_the_message_says_what_would_need_less_and_nothing_is_lost(
    configure, at_update, monkeypatch
):
    settings = ("llama", *EPOCHS, "training.gradient_checkpointing=off", "training.micro_batch=4")
    settings += ("training.accumulation=1",)
    whole = outcome(train_run(configure(*settings)).folder)
    config = configure(*settings, output="again")

    def refuse():
        raise RuntimeError("[malloc] Unable to allocate 8589934592 bytes.")

    with monkeypatch.context() as patch:
        at_update(4, refuse)
        with pytest.raises(DpoError, match="out of memory") as error:
            train_run(config)
        patch.undo()
    less = "set training.gradient_checkpointing=off and training.branches=separate; "
    assert error.value.hint.startswith(less) and "--accept-changes" in error.value.hint
    assert outcome(train_run(config).folder) == whole


def test_what_is_read_back_must_be_what_was_saved(configure, monkeypatch):
    """A disk that loses a bit behind the program's back."""
    own = run_folder.save_checkpoint

    def lossy(*arguments):
        saved = own(*arguments)
        path = saved.folder / "adapters.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(bytes(content))
        return saved

    monkeypatch.setattr(run_folder, "save_checkpoint", lossy)
    with pytest.raises(DpoError, match=r"differs from the saved one: model\.layers\."):
        train_run(configure("granite", train=8))


def test_a_stopped_training_says_what_goes_on(configure, tmp_path, capsys):
    config = configure("llama", train=8)
    save_settings(config, tmp_path / "given.yaml")
    train_run(config)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["train", "--config", str(tmp_path / "given.yaml"), "--set", "beta.value=0.3"])
    assert stop.value.code == 1
    assert_told(stop.value.__context__, config.run.output, "beta.value is 0.3, was 0.1", "--accept-changes")
    assert capsys.readouterr().err.endswith(f"Error: {stop.value.__context__}\n")
