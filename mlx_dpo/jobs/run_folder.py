"""A run's folder: start it, restore it from a checkpoint, and save to it during the run."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import mlx.optimizers as optimizers

from ..config import RunConfig
from ..console import say
from ..errors import DpoError
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
from ..monitoring.margin_files import MARGINS, rewind_margins
from ..monitoring.run_log import FILES, RunLog
from ..monitoring.trackers import TRACKERS
from ..settings import save_settings
from ..storage.checksummed_folder import Sealed
from ..storage.files import check_writable, make_folder, with_replacement, write_text
from ..training.checkpoint_arrays import from_snapshot, to_snapshot
from ..training.checkpoint_folder import (
    CHECKPOINTS,
    adapter_bytes,
    check_saved,
    checkpoint_of,
    prune_checkpoints,
    read_arrays,
    remove_checkpoints,
    remove_leftovers,
    remove_run,
    save_checkpoint,
    told_damaged,
)
from ..training.state import TrainState
from .continuing import changed_settings, say_if_changed, versions
from .kept_evaluation import EVALUATION
from .open_run import INSPECTION, SETTINGS, TEMPLATE
from .prepare import Prepared
from .resume import filled_in, same_measure

_LIBRARIES = ("mlx", "mlx-lm", "mlx-dpo")
"""Libraries whose versions a run notes."""


def start_folder(run: Prepared, folder: Path, *, anew: bool) -> None:
    """Make the folder ready: a new run replaces the files in it, a run that continues keeps them.

    Raises:
        DpoError: the disk has no room for the checkpoints.
    """
    config, policy = run.config, run.policy
    remove_leftovers(folder)
    trained = sum(value.nbytes for value in trainable(policy).values())
    there = sum(file.stat().st_size for file in (folder / CHECKPOINTS).glob("*/*"))
    check_writable(
        folder, need_bytes=max(0, adapter_bytes(trained, config.training.keep_checkpoints) - there)
    )
    make_folder(folder / CHECKPOINTS)  # first: marks the folder as a run, even if the process ends soon
    if anew:
        # The largest file first: if the disk is full, an older run is still intact.
        save_adapter_weights(policy, folder, first=partial(_remove_older, folder))
    _save_adapter_config(run, folder)
    save_settings(filled_in(config, run.layout, run.amounts), folder / SETTINGS)
    write_template(config, run.tokenizer, folder)
    if run.inspection:
        write_text(folder / INSPECTION, json.dumps(run.inspection, indent=1) + "\n")


def write_template(config: RunConfig, tokenizer: Any, folder: Path) -> None:
    """Save the chat template that the settings name; the base model's own template is not saved."""
    if config.model.chat_template:
        write_text(folder / TEMPLATE, tokenizer.chat_template)
    else:
        (folder / TEMPLATE).unlink(missing_ok=True)


def _save_adapter_config(run: Prepared, folder: Path) -> None:
    config = run.config
    save_adapter_config(run.policy, config.adapter, config.model.path, folder, {BASE_SUMS: run.base_sums})


def _remove_older(folder: Path) -> None:
    """Remove an older run, except the files that are about to be replaced."""
    remove_run(folder, [MARGINS, *TRACKERS], [*FILES, EVALUATION])


def put_back_adapter(folder: Path, checkpoint: Sealed, config: RunConfig) -> None:
    """If the adapter of the run folder is missing or damaged, restore it from its checkpoint.

    Args:
        checkpoint: the newest one.

    Raises:
        DpoError: the adapter is damaged, and so is its checkpoint.
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
        say(f"{error.where}: {error.what}; the adapter is restored from {kept.folder}")


def restored(
    checkpoint: Sealed,
    run: Prepared,
    optimizer: optimizers.Optimizer,
    first: TrainState,
    log: RunLog,
) -> TrainState:
    """The state of the checkpoint; sets policy, optimiser and the folder's files back to that state.

    Raises:
        DpoError: the checkpoint has another kind of policy, optimiser or beta rule.
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
                f"has no {error.args[0]}, so it belongs to a run with other settings",
                where=checkpoint.folder,
                hint="start anew with --overwrite",
            ) from None
    say_if_changed(facts["versions"], versions(*_LIBRARIES))
    log.check(facts["sizes"])
    put_back_adapter(log.folder, checkpoint, run.config)
    remove_checkpoints(log.folder, after=state.step)
    log.rewind(facts["sizes"])
    rewind_margins(log.folder, state.step)
    log.note(state.step, "resumed", f"continuing from {checkpoint.folder}")
    return state if facts["key"] == run.key else _with_changes(state, facts["key"], run.key, log)


def _with_changes(
    state: TrainState, before: Mapping[str, Any], now: Mapping[str, Any], log: RunLog
) -> TrainState:
    """The state after changes were accepted: the run may go on, and another checkpoint may be the best."""
    past = sum("eval/loss" in row for row in log.rows())
    if changed_settings(before, now, "training.sample"):
        state = replace(state, forgotten=past)
    kept = state.best and checkpoint_of(log.folder, state.best.step)
    if not kept or not same_measure(before, now):
        return replace(state, stopped="", best=None, evaluated=-1, held_out=None, forgotten=past)
    if now["settings"]["training.select"] == "best":  # the run folder may have a later adapter
        with_replacement(log.folder / WEIGHTS, lambda beside: shutil.copyfile(kept.folder / WEIGHTS, beside))
    return replace(state, stopped="", best=state.best._replace(since=0))


def save(
    run: Prepared, folder: Path, optimizer: optimizers.Optimizer, log: RunLog, state: TrainState
) -> None:
    """Write a checkpoint, and the run folder's adapter if this is the one to keep so far."""
    config, policy = run.config, run.policy
    best = state.best if config.training.select == "best" else None
    if best is None or best.step == state.step:
        save_adapter_weights(policy, folder)

    def write_adapter(to: Path) -> None:
        save_adapter_weights(policy, to)
        _save_adapter_config(run, to)

    arrays, facts = to_snapshot(state, optimizer)
    facts |= {"key": run.key, "layout": run.layout._asdict(), "amounts": run.amounts._asdict()}
    facts |= {"sizes": log.sizes(), "versions": versions(*_LIBRARIES)}
    saved = save_checkpoint(folder, state.step, arrays, facts, write_adapter)
    check_saved(policy, saved.folder, run.base)
    prune_checkpoints(folder, config.training.keep_checkpoints, state.best and state.best.step)
