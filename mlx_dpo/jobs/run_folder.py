"""Training in a run's folder: begin or go on, evaluate, save, end."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
import numpy as np

from ..config import RunConfig, save_config
from ..console import progress, say
from ..data.tokenize import pair_sizes
from ..errors import DpoError
from ..forward.scoring import score_pairs, singles
from ..losses import beta_rule, build_loss
from ..machine.interrupt import Stop, between_micro_batches
from ..models.adapters import (
    CONFIG,
    WEIGHTS,
    load_adapter,
    read_adapter_config,
    save_adapter_config,
    save_adapter_weights,
    trainable,
)
from ..models.base_of_adapter import KEY as BASE_SUMS
from ..monitoring.alarm_watch import Watch
from ..monitoring.alarms import About
from ..monitoring.margin_files import MARGINS, rewind_margins, write_margins
from ..monitoring.run_log import FILES, RunLog
from ..monitoring.samples import Asked, first_answers, sample_answers, sample_metrics, write_samples
from ..monitoring.trackers import TRACKERS, open_trackers
from ..optimizers import build_optimizer
from ..records import prompt_text
from ..settings import as_plain
from ..storage.checksummed_folder import Sealed
from ..storage.files import check_writable, make_folder, with_replacement, write_text
from ..training.batch_layout import Arrangement
from ..training.checkpoint_folder import (
    CHECKPOINTS,
    check_saved,
    checkpoint_of,
    prune_checkpoints,
    read_arrays,
    remove_checkpoints,
    remove_leftovers,
    save_checkpoint,
    told_damaged,
)
from ..training.rehearsal import Rehearsal
from ..training.snapshot import from_snapshot, to_snapshot
from ..training.state import TrainState
from ..training.step import DIVERGED, pair_gradient
from ..training.trainer import Data, evaluation_metrics, first_state, train
from ..training.window import Objective
from .resume import changed_settings, same_measure, settled_layout

SETTINGS, INSPECTION, TEMPLATE = "config.yaml", "inspection.json", "chat_template.jinja"

_LOGISTIC = {"sigmoid", "robust", "sigmoid_norm", "exo_pair", "nca_pair", "bco_pair"}
"""Losses that go to 0 as margins grow."""


class TrainResult(NamedTuple):
    """Where the run lies, and the held-out metrics of its adapter, if there were held-out pairs."""

    folder: Path
    held_out: Mapping[str, float] | None


class Memory(NamedTuple):
    """Bytes: planned for the run, None where the model cannot be planned; and held before it began."""

    planned: int | None
    before: int

    def row(self) -> dict[str, float]:
        """What a report says of the plan."""
        return {} if self.planned is None else {"planned_memory_gb": self.planned / 1e9}

    def summary(self, start: int, training: int) -> str:
        """Planned beside measured, from the peaks (bytes) of the start-up checks and of training."""
        peak = max(start, training) - self.before
        measured = f"the peak memory was {peak / 1e9:.3f} GB"
        if self.planned is None:
            return f"{measured}; this model could not be planned"
        return (
            f"{measured}; the plan was {self.planned / 1e9:.3f} GB ({self.planned / peak:.2f} times as much)"
        )


@dataclass(frozen=True)
class Prepared:
    """A run whose start-up checks have passed: the policy is loaded, the reference is scored.

    `config`: as a plan settled it. `key`: all that decides what the run computes, see `jobs.resume`.
    `base_sums`: see `models.base_of_adapter`.
    `inspection`: what was found of the pairs, where they are pairs. `rehearsal`: texts of the model's own,
    where the settings want them.
    """

    config: RunConfig
    base: Path
    tokenizer: Any
    policy: nn.Module
    data: Data
    held_out: Data | None
    arrangement: Arrangement
    rehearsal: Rehearsal | None
    key: Mapping[str, Any]
    base_sums: Mapping[str, str]
    inspection: Mapping[str, Any] | None
    memory: Memory


def fit(run: Prepared, folder: Path, checkpoint: Sealed | None) -> TrainResult:
    """Train in `folder`, from a checkpoint or from the beginning; on an interrupt save and pass it on."""
    config, policy = run.config, run.policy
    steps = config.training.steps(len(run.data.pairs))
    log = RunLog(folder, steps)
    loss, rule = build_loss(config.loss), beta_rule(config.beta)
    gradient = pair_gradient(policy, loss, run.arrangement.forward, compiled=run.arrangement.compiled)
    objective = Objective(gradient, loss, rule, config.passes, config.loss.wpo, config.loss.bco_shift)
    optimizer = build_optimizer(config.optimizer, steps)
    optimizer.init(policy.trainable_parameters())
    state = first_state(objective, config.training)
    if checkpoint:
        state = _restored(checkpoint, run, optimizer, state, log)
    _start_folder(run, folder, anew=checkpoint is None)
    start = mx.get_peak_memory()
    mx.reset_peak_memory()
    total = config.training.epochs * len(run.data.pairs)
    with (
        open_trackers(config.run.report_to, folder, as_plain(config), log.rows()) as trackers,
        between_micro_batches() as check_interrupt,
        progress("training", total, "pairs", state.pairs) as advance,
    ):
        watch = Watch(log, _about(run, steps, start), config.training.guard, trackers.row, state.forgotten)
        try:
            state = train(
                policy,
                optimizer,
                run.data,
                objective,
                config.training,
                config.optimizer.grad_clip,
                state,
                rehearsal=run.rehearsal,
                evaluate=_evaluation(run, folder, watch, check_interrupt),
                save=partial(_save, run, folder, optimizer, log),
                log=lambda row: watch.report({**row, **run.memory.row()}),
                note=log.note,
                keep_margins=partial(write_margins, folder) if config.run.margin_files else None,
                advance=advance,
                check_interrupt=check_interrupt,
            )
        except KeyboardInterrupt as stop:
            held = "all of it" if isinstance(stop, Stop) else "what was saved before"
            say(
                f"interrupted: {folder / CHECKPOINTS} holds {held}; "
                "the same command goes on from there (without --overwrite)"
            )
            raise
        _say_end(state, steps, config, log)
        log.note(state.step, "memory", run.memory.summary(start, mx.get_peak_memory()))
    return TrainResult(folder, selected(state.best and {"row": state.best.row}, state.held_out, config))


def selected(
    best: Mapping[str, Any] | None, last: Mapping[str, float] | None, config: RunConfig
) -> Mapping[str, float] | None:
    """The held-out metrics of the adapter that the run folder ends with."""
    return best["row"] if best and config.training.select == "best" else last


def _start_folder(run: Prepared, folder: Path, *, anew: bool) -> None:
    """Make the folder ready: a new run replaces what is there, one that goes on keeps it.

    Raises:
        DpoError: the disk has no room for the checkpoints.
    """
    config, policy = run.config, run.policy
    remove_leftovers(folder)
    kept = config.training.keep_checkpoints + 2  # the best one, and one that is being written
    adapter = sum(value.nbytes for value in trainable(policy).values())
    there = sum(file.stat().st_size for file in (folder / CHECKPOINTS).glob("*/*"))
    check_writable(folder, need_bytes=max(0, (3 * kept + 1) * adapter - there))
    make_folder(folder / CHECKPOINTS)  # first: it says that this is a run, however soon the process ends
    if anew:
        # The largest: where there is no room, an older run is whole.
        save_adapter_weights(policy, folder, first=partial(_remove_run, folder))
    _save_adapter_config(run, folder)
    save_config(config, folder / SETTINGS)
    if config.model.chat_template:
        write_text(folder / TEMPLATE, run.tokenizer.chat_template)
    else:
        (folder / TEMPLATE).unlink(missing_ok=True)
    if run.inspection:
        write_text(folder / INSPECTION, json.dumps(run.inspection, indent=1) + "\n")


def _save_adapter_config(run: Prepared, folder: Path) -> None:
    config = run.config
    save_adapter_config(run.policy, config.adapter, config.model.path, folder, {BASE_SUMS: run.base_sums})


def _remove_run(folder: Path) -> None:
    """Remove an older run but for the files that are about to be replaced."""
    remove_checkpoints(folder)
    for old in (MARGINS, *TRACKERS):
        shutil.rmtree(folder / old, ignore_errors=True)
    for old in FILES:
        (folder / old).unlink(missing_ok=True)


def put_back_adapter(folder: Path, checkpoint: Sealed, config: RunConfig) -> None:
    """Put the adapter that the run ends with back from its checkpoint where it is gone or damaged.

    Args:
        checkpoint: the newest one.

    Raises:
        DpoError: it is damaged, and so is the checkpoint that it was taken from.
    """
    facts = checkpoint.facts
    best = facts["best"] if config.training.select == "best" else None
    kept = checkpoint_of(folder, int(best["row"]["step"])) if best else checkpoint
    try:
        read_adapter_config(folder)
    except DpoError as error:
        if not kept:
            raise
        for name in (WEIGHTS, CONFIG):
            with_replacement(folder / name, partial(shutil.copyfile, kept.folder / name))
        say(f"{error.where}: {error.what}; the adapter is put back from {kept.folder}")


def _restored(
    checkpoint: Sealed,
    run: Prepared,
    optimizer: optimizers.Optimizer,
    first: TrainState,
    log: RunLog,
) -> TrainState:
    """The state of the checkpoint, with policy, optimiser and the folder's files as they were then.

    Raises:
        DpoError: policy, optimiser or beta's rule are of another kind than when it was written.
    """
    facts, policy = checkpoint.facts, run.policy
    load_adapter(policy, checkpoint.folder, run.config.adapter.dropout)
    same_beta = not changed_settings(facts["key"], run.key, "beta.", "loss.")
    arrays, parameters = read_arrays(checkpoint), policy.trainable_parameters()
    with told_damaged(checkpoint.folder):
        try:
            state = from_snapshot(arrays, facts, optimizer, parameters, first, same_beta=same_beta)
        except KeyError as error:
            raise DpoError(
                f"holds no {error.args[0]}: it is of a run with other settings",
                where=checkpoint.folder,
                hint="start anew with --overwrite",
            ) from None
    if facts["versions"] != _versions():
        say(f"begun with {facts['versions']}, going on with {_versions()}: rounding may differ")
    log.check(facts["sizes"])
    put_back_adapter(log.folder, checkpoint, run.config)
    remove_checkpoints(log.folder, after=state.step)
    log.rewind(facts["sizes"])
    rewind_margins(log.folder, state.step)
    log.note(state.step, "resumed", f"going on from {checkpoint.folder}")
    return state if facts["key"] == run.key else _with_changes(state, facts["key"], run.key, log)


def _with_changes(
    state: TrainState, before: Mapping[str, Any], now: Mapping[str, Any], log: RunLog
) -> TrainState:
    """The state after changes were accepted: what ended the run need not, what was best may not be."""
    past = sum("eval/loss" in row for row in log.rows())
    if changed_settings(before, now, "training.sample"):
        state = replace(state, forgotten=past)
    kept = state.best and checkpoint_of(log.folder, state.best.step)
    if not kept or not same_measure(before, now):
        return replace(state, stopped="", best=None, evaluated=-1, held_out=None, forgotten=past)
    if now["settings"]["training.select"] == "best":  # the folder's may be a later one
        with_replacement(log.folder / WEIGHTS, lambda beside: shutil.copyfile(kept.folder / WEIGHTS, beside))
    return replace(state, stopped="", best=state.best._replace(since=0))


def _versions() -> str:
    return ", ".join(f"{name} {version(name)}" for name in ("mlx", "mlx-lm", "mlx-dpo"))


def _save(
    run: Prepared, folder: Path, optimizer: optimizers.Optimizer, log: RunLog, state: TrainState
) -> None:
    """Write a checkpoint and, where it is the one to end with so far, the run folder's adapter."""
    config, policy = run.config, run.policy
    best = state.best if config.training.select == "best" else None
    if best is None or best.step == state.step:
        save_adapter_weights(policy, folder)

    def write_adapter(to: Path) -> None:
        save_adapter_weights(policy, to)
        _save_adapter_config(run, to)

    arrays, facts = to_snapshot(state, optimizer)
    facts |= {"key": run.key, "layout": settled_layout(config), "sizes": log.sizes(), "versions": _versions()}
    saved = save_checkpoint(folder, state.step, arrays, facts, write_adapter)
    check_saved(policy, saved.folder, run.base)
    prune_checkpoints(folder, config.training.keep_checkpoints, state.best and state.best.step)


def _evaluation(
    run: Prepared, folder: Path, watch: Watch, check_interrupt: Callable[[], None]
) -> Callable[[int], tuple[Mapping[str, float] | None, str]]:
    """How held-out pairs are judged: a function of the step, see `training.trainer.train`."""
    config, policy, held_out = run.config, run.policy, run.held_out
    if held_out is None:
        return lambda step: (None, "")
    loss, asked = build_loss(config.loss), _asked(held_out, config.training.samples)
    beta = mx.array(config.beta.value)  # also where it moves: held-out losses stay comparable
    forward, singly = run.arrangement.forward, singles(held_out.pairs)

    def evaluate(step: int) -> tuple[Mapping[str, float], str]:
        scores = score_pairs(policy, held_out.pairs, forward, singly, lambda pairs: check_interrupt())
        row = {"step": step, **evaluation_metrics(scores, held_out, loss, beta)}
        if not np.isfinite(list(row.values())).all():
            raise DpoError(f"held-out scores are not finite at step {step}", where=folder, hint=DIVERGED)
        if asked.tokens:
            answers = sample_answers(policy, run.tokenizer, asked, config.training.sample_tokens)
            write_samples(folder, step, asked.texts, answers)
            own = sample_metrics(asked, answers, first_answers(folder), run.tokenizer)
            row |= {f"eval/{name}": value for name, value in own.items()}
        return row, watch.evaluation(row)

    return evaluate


def _asked(held_out: Data, count: int) -> Asked:
    """The prompts that are answered as the run goes on: spread over the held-out rows, each once."""
    if not count:
        return Asked([], [])
    rows: dict[bytes, int] = {}
    for row in np.linspace(0, len(held_out.pairs) - 1, 4 * count).round().astype(int).tolist():
        rows.setdefault(held_out.pairs[row].prompt.tobytes(), row)
    chosen = list(rows.values())[:: max(1, len(rows) // count)][:count]
    texts = [prompt_text(held_out.pairs.texts[row].prompt) for row in chosen]
    return Asked(texts, [held_out.pairs[row].prompt.tolist() for row in chosen])


def _about(run: Prepared, steps: int, start: int) -> About:
    _, chosen, rejected = pair_sizes(run.held_out.pairs).mean(axis=0).tolist() if run.held_out else (0.0,) * 3
    loss = run.config.loss
    return About(
        steps,
        chosen,
        rejected,
        set(loss.names) <= _LOGISTIC,
        loss.per_token,
        run.config.training.epochs,
        run.config.optimizer.learning_rate,
        loss.answers_only,
        held_gb=run.memory.before / 1e9,
        start_gb=start / 1e9,
    )


def _say_end(state: TrainState, steps: int, config: RunConfig, log: RunLog) -> None:
    """Say why a run ended early, and which adapter it ends with where that is not the last."""
    if state.step < steps:
        log.note(state.step, "stopped", f"the run ends at step {state.step} of {steps}: {state.stopped}")
    if state.best and state.best.step < state.step and config.training.select == "best":
        what = f"the run folder's adapter is that of step {state.best.step}, of the lowest held-out loss"
        log.note(state.best.step, "best", what)
