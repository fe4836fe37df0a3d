"""A run that was stopped anywhere ends as one that was not: the same bytes, the same metrics."""

import itertools
import os
import random
import shutil
import signal
import time
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from mlx_dpo.errors import DpoError
from mlx_dpo.jobs import prepare, training_run
from mlx_dpo.jobs.train import train_run
from mlx_dpo.machine.interrupt import Stop
from mlx_dpo.settings import save_settings
from mlx_dpo.training.checkpoint_folder import CHECKPOINTS, prune_checkpoints
from mlx_dpo.training.state import TrainState

from ..conftest import some
from ..support.runs import CLOCK, rows_of

RULES = {
    "fixed": (),
    "risk": ("beta.rule=risk", "beta.risk.warmup_steps=2", "beta.risk.alpha=0.1"),
    "beta_dpo": ("beta.rule=beta_dpo", "beta.beta_dpo.keep=0.5"),
}
OTHERS = {
    "dora": ("adapter.type=dora",),
    "full": ("adapter.type=full", "optimizer.learning_rate=1e-4"),
    "dropout": ("adapter.dropout=0.2",),
    "lion": ("optimizer.name=lion", "optimizer.learning_rate=1e-4"),
    "a reference that moves": ("training.reference_sync_steps=2",),
    "reports of several windows": ("training.report_steps=4", "training.eval_steps=3"),
    "margin files": ("run.margin_files=true",),
    "a running shift": ("loss.name=bco_pair", "loss.bco_shift=true"),
    "kept gradients": ("beta.rule=beta_dpo", "beta.beta_dpo.deferred=true"),
    "traced steps": ("training.compile=on",),
    "no held-out pairs": ("data.valid=null",),
    "the last adapter": ("training.select=last",),
}
EPOCHS = ("training.epochs=2", "training.patience=null")


def outcome(folder):
    """All that a run leaves but its checkpoints and what the clock decides."""
    rows = [
        {name: value for name, value in row.items() if name not in CLOCK}
        for kind in rows_of(folder)
        for row in kind
    ]
    margins = {p.relative_to(folder): p.read_bytes() for p in sorted((folder / "margins").rglob("*.*"))}
    return rows, (folder / "adapters.safetensors").read_bytes(), margins


@pytest.fixture
def interrupted(monkeypatch):
    """Train, but after so many micro-batches an interrupt comes, also in evaluations; True when it came."""

    @contextmanager
    def after(count):
        def check():
            nonlocal count
            count -= 1
            if count < 0:
                raise Stop

        yield check

    def train(config, count):
        with monkeypatch.context() as patch:
            patch.setattr(training_run, "between_micro_batches", lambda checkpoints: after(count))
            try:
                train_run(config)
            except Stop:
                return True
            return False

    return train


@pytest.mark.parametrize(
    ("rule", "micro_batch"), some(product(RULES, (1, 4)), ("fixed", 1), ("risk", 4), ("beta_dpo", 1))
)
def test_a_run_interrupted_again_and_again_ends_as_one_that_was_not(
    configure, interrupted, rule, micro_batch
):
    windows = (f"training.micro_batch={micro_batch}", f"training.accumulation={4 // micro_batch}")
    settings = ("llama", *RULES[rule], *windows, *EPOCHS, "run.margin_files=true")
    whole = outcome(train_run(configure(*settings, train=10, valid=1)).folder)
    config, times = configure(*settings, train=10, valid=1, output="again"), 0
    while interrupted(config, 11 if micro_batch == 1 else 5):  # micro-batches
        times += 1
    assert times >= 2
    assert outcome(Path(config.run.output)) == whole


FEW = ("dropout", "a reference that moves", "reports of several windows", "kept gradients")
"""Margin files are in the runs above."""


@pytest.mark.parametrize("other", some(OTHERS, *FEW))
def test_nothing_that_a_run_can_be_keeps_it_from_going_on(configure, interrupted, other):
    settings = ("granite" if other != "traced steps" else "llama", *EPOCHS, *OTHERS[other])
    whole = outcome(train_run(configure(*settings, train=6, valid=1)).folder)
    config = configure(*settings, train=6, valid=1, output="again")
    assert interrupted(config, 9)
    assert not interrupted(config, 10**6)
    assert outcome(Path(config.run.output)) == whole


@pytest.fixture
def start(forked, tmp_path):
    """`mlx-dpo train` in another process."""

    def train(config):
        save_settings(config, tmp_path / "given.yaml")
        return forked("train", "--config", tmp_path / "given.yaml")

    return train


def test_a_run_that_is_killed_at_random_moments_ends_as_one_that_was_not(configure, start):
    settings = ("llama", *RULES["risk"], *EPOCHS, "training.eval_steps=1")
    whole = outcome(train_run(configure(*settings)).folder)
    config, moments = configure(*settings, output="again"), random.Random(0)
    folder = Path(config.run.output)
    for _ in range(2):
        process, seen = start(config), len(list(folder.glob("checkpoints/[0-9]*")))
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if (folder / CHECKPOINTS).exists() and (seen or any((folder / CHECKPOINTS).iterdir())):
                break
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
    process = start(config)
    assert process.wait() == 0, process.stderr
    assert outcome(folder) == whole


class Killed(BaseException):
    """What no handler of the program expects."""


def test_a_run_that_is_killed_wherever_it_writes_ends_as_one_that_was_not(configure, monkeypatch):
    """Each way to the disk is counted; at one of them the process is gone, and cleans up nothing.

    One run dies at its first write, is started again and dies at its second, and so on.
    """
    settings = ("llama", "training.eval_steps=1", "training.keep_checkpoints=1", "training.accumulation=2")
    whole = outcome(train_run(configure(*settings, train=4, valid=1)).folder)
    config, deaths = configure(*settings, train=4, valid=1, output="again"), 0

    def dies_after(count):
        def counted(own):
            def call(*arguments, **options):
                nonlocal count
                if str(config.run.output) in str(arguments[0]):
                    count -= 1
                    if count == 0:
                        raise Killed
                    if count < 0:  # what `finally` would still do
                        return None
                return own(*arguments, **options)

            return call

        return counted

    for count in itertools.count(1, 4):
        with monkeypatch.context() as patch:
            counted = dies_after(count)
            for module, name in (
                *((os, name) for name in ("rename", "replace", "truncate", "mkdir")),
                *((shutil, "rmtree"), (Path, "unlink")),
            ):
                patch.setattr(module, name, counted(getattr(module, name)))
            try:
                train_run(config)
                break
            except Killed:
                deaths += 1
    assert deaths > 6
    assert outcome(Path(config.run.output)) == whole


def test_a_finished_run_is_not_trained_again(configure, monkeypatch):
    config = configure("llama", "training.select=last", train=8)
    first = train_run(config)
    before = outcome(first.folder)
    monkeypatch.setattr(prepare, "load_model", lambda path: pytest.fail("a model was loaded"))
    assert train_run(config) == first
    assert outcome(first.folder) == before


def test_a_second_process_cannot_train_in_the_same_folder(configure, tmp_path, start):
    config = configure("llama", "training.epochs=50")
    start(config)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(tmp_path.glob("run/checkpoints/0*")):
        time.sleep(0.05)
    with pytest.raises(DpoError, match="another process is training"):
        train_run(config)


def test_with_resume_there_must_be_something_to_resume(configure):
    with pytest.raises(DpoError, match="no checkpoint"):
        train_run(configure("llama"), resume=True)


def test_the_newest_checkpoints_and_the_best_are_kept(configure):
    settings = ("training.keep_checkpoints=2", "training.eval_steps=1", "training.accumulation=1")
    folder = train_run(configure("llama", *settings, train=6)).folder
    _, held_out = rows_of(folder)
    best = min(held_out, key=lambda row: row["eval/loss"])["step"]
    assert sorted(int(p.name) for p in (folder / CHECKPOINTS).iterdir()) == sorted({5, 6, best})


@pytest.mark.parametrize(
    ("kept", "best", "left"),
    [(1, 3, [3, 6]), (2, 3, [3, 5, 6]), (3, 3, [3, 4, 5, 6]), (1, 6, [6]), (3, None, [4, 5, 6])],
)
def test_which_checkpoints_are_kept_by_hand(tmp_path, kept, best, left):
    for step in range(7):
        (tmp_path / CHECKPOINTS / f"{step:06d}").mkdir(parents=True)
    prune_checkpoints(tmp_path, kept, best)
    assert sorted(int(p.name) for p in (tmp_path / CHECKPOINTS).iterdir()) == left


def test_a_checkpoint_is_an_adapter_folder(configure, models):
    from mlx_lm import load

    folder = train_run(configure("llama", "training.select=last", train=8)).folder
    (last,) = [p for p in (folder / CHECKPOINTS).iterdir() if int(p.name) == 2]
    assert (last / "adapters.safetensors").read_bytes() == (folder / "adapters.safetensors").read_bytes()
    load(str(models("llama")), adapter_path=str(last))


RISING = ("optimizer.learning_rate=0.1", "optimizer.schedule=constant", "training.eval_steps=1")
"""A rate at which the held-out loss falls, then rises."""


def test_a_run_ends_when_its_patience_does_with_the_adapter_of_the_lowest_held_out_loss(configure):
    settings = ("llama", *RISING, "training.patience=2", "training.epochs=4", "training.keep_checkpoints=99")
    config = configure(*settings, train=24)
    result = train_run(config)
    _, held_out = rows_of(result.folder)
    losses = [row["eval/loss"] for row in held_out]
    assert len(losses) == losses.index(min(losses)) + 3 < 25
    best = held_out[losses.index(min(losses))]
    assert result.held_out == best and best["step"] > 0
    of_best = result.folder / CHECKPOINTS / f"{best['step']:06d}" / "adapters.safetensors"
    assert (result.folder / "adapters.safetensors").read_bytes() == of_best.read_bytes()
    assert train_run(config) == result  # it has ended: nothing goes on


@pytest.mark.parametrize(
    ("losses", "best", "ended"),
    [
        ((0.7, 0.6, 0.5), 2, False),
        ((0.7, 0.6, 0.65, 0.62), 1, False),
        ((0.7, 0.6, 0.65, 0.6, 0.61), 1, True),  # the same is not lower
        ((0.7, 0.8, 0.9, 0.6, 0.61, 0.62), 3, False),
        ((0.7, 0.8, 0.9, 1.0), 0, True),
    ],
)
def test_the_best_evaluation_and_the_end_of_patience_by_hand(losses, best, ended):
    state = TrainState(beta=None, random=None)
    for step, loss in enumerate(losses):
        assert not state.stopped
        state = replace(state, step=step).after_evaluation({"step": step, "eval/loss": loss}, 3)
    assert (state.best.step, bool(state.stopped)) == (best, ended)


def test_without_held_out_pairs_nothing_is_best_and_nothing_ends():
    state = TrainState(beta=None, random=None).after_evaluation(None, 1).after_evaluation(None, 1)
    assert (state.best, state.stopped, state.evaluated) == (None, "", 0)
