"""The folder of a run: whether a run may start there, and from which checkpoint one continues."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..config import RunConfig
from ..console import say
from ..errors import DpoError
from ..models.adapters import WEIGHTS
from ..monitoring.margin_files import MARGINS
from ..monitoring.run_log import FILES, METRICS, RunLog
from ..monitoring.trackers import TRACKERS, check_trackers
from ..storage.checksummed_folder import Sealed
from ..storage.files import check_writable
from ..storage.reading import check_name, is_folder, is_there
from ..training.checkpoint_folder import (
    CHECKPOINTS,
    checkpoint_of,
    holds_others,
    newest_checkpoint,
    remove_leftovers,
)
from .continuing import would_replace
from .open_run import SETTINGS, is_topics_run
from .resume import as_of_today


def check_run_settings(config: RunConfig) -> None:
    """Check what a run needs besides model and rows; the commands that come before `train` check it too.

    Raises:
        DpoError: the folder cannot be written, or a tracker's library is missing.
    """
    check_writable(Path(config.run.output), need_bytes=50_000_000)
    check_trackers(config.run.report_to)


def output_folder(config: RunConfig) -> Path:
    """The run's folder.

    Raises:
        DpoError: as `check_run_settings`, or the folder is the adapter that the run starts from, or contains
            the run of a topic model.
    """
    check_run_settings(config)
    folder = Path(config.run.output)
    topics = False
    with suppress(DpoError):  # a settings file that is damaged, but --overwrite may replace it
        topics = is_topics_run(folder)
    if topics:
        raise DpoError(
            "contains the run of a topic model", where=folder, hint="choose another folder with --output"
        )
    if config.model.adapter and _real(config.model.adapter).is_relative_to(_real(folder)):
        raise DpoError(
            "is or contains the adapter that the run starts from",
            where=folder,
            hint="choose another folder with --output",
        )
    return folder


def _real(path: Path | str) -> Path:
    """The full path without symbolic links."""
    check_name(path)
    return Path(os.path.realpath(path))


def checkpoint_in(folder: Path) -> Sealed | None:
    """The checkpoint from which a run in this folder continues; None if the folder contains no run.

    Raises:
        DpoError: the folder contains something else that a run would replace, or cannot be read.
    """
    remove_leftovers(folder)
    if checkpoint := newest_checkpoint(folder):
        return as_of_today(checkpoint)
    files = [name for name in (WEIGHTS, *FILES, SETTINGS) if is_there(folder / name)]
    folders = [name for name in (MARGINS, *TRACKERS) if is_there(folder / name)]
    held = [*files, *folders, *([CHECKPOINTS] if holds_others(folder) else [])]
    # If a process ended before its first checkpoint, nothing that took time is lost.
    begun = is_folder(folder / CHECKPOINTS) and not RunLog(folder, 0).reported()
    if held and not (begun and WEIGHTS in files and held == [*files, *folders]):
        error = would_replace(held, folder)
        if {WEIGHTS, METRICS} & {*files}:
            error = error.instead(what="contains a run without checkpoints, which cannot be continued")
        raise error
    return None


def is_finished(facts: Mapping[str, Any], steps: int) -> bool:
    """Whether a checkpoint with these facts is the end of a run with this number of updates."""
    return bool(facts["stopped"]) or facts["step"] == facts["evaluated"] >= steps


def last_good(folder: Path, newest: Sealed) -> Sealed:
    """The checkpoint from which a run continues with other settings: the best one if the run ended early."""
    facts = newest.facts
    best = (
        checkpoint_of(folder, int(facts["best"]["row"]["step"]))
        if facts["stopped"] and facts["best"]
        else None
    )
    if best and best.folder != newest.folder:
        say(f"the run ended early ({facts['stopped']}): it continues from the best checkpoint, {best.folder}")
    return as_of_today(best) if best else newest
