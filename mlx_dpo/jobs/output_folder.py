"""The folder of a run: whether one may begin there, and where one goes on."""

import os
from collections.abc import Mapping
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
from .resume import as_of_today
from .runs import SETTINGS


def check_run_settings(config: RunConfig) -> None:
    """Check what a run needs besides model and rows; the commands before `train` check it too.

    Raises:
        DpoError: its folder cannot be written, or a tracker's library is missing.
    """
    check_writable(Path(config.run.output), need_bytes=50_000_000)
    check_trackers(config.run.report_to)


def output_folder(config: RunConfig) -> Path:
    """The run's folder.

    Raises:
        DpoError: as `check_run_settings`, or it is the adapter that the run starts from.
    """
    check_run_settings(config)
    folder = Path(config.run.output)
    if config.model.adapter and _real(config.model.adapter).is_relative_to(_real(folder)):
        raise DpoError(
            "is or holds the adapter that the run starts from, its reference",
            where=folder,
            hint="choose another folder with --output",
        )
    return folder


def _real(path: Path | str) -> Path:
    """The full path without symbolic links."""
    check_name(path)
    return Path(os.path.realpath(path))


def checkpoint_in(folder: Path) -> Sealed | None:
    """The checkpoint that a run in this folder goes on from; None where it holds no run.

    Raises:
        DpoError: it holds something else that a run would replace, or cannot be read.
    """
    remove_leftovers(folder)
    if checkpoint := newest_checkpoint(folder):
        return as_of_today(checkpoint)
    files = [name for name in (WEIGHTS, *FILES, SETTINGS) if is_there(folder / name)]
    folders = [name for name in (MARGINS, *TRACKERS) if is_there(folder / name)]
    held = [*files, *folders, *([CHECKPOINTS] if holds_others(folder) else [])]
    # A process that ended before its first checkpoint has left nothing that took time.
    begun = is_folder(folder / CHECKPOINTS) and not RunLog(folder, 0).reported()
    if held and not (begun and WEIGHTS in files and held == [*files, *folders]):
        raise DpoError(
            "holds a run without checkpoints, which cannot go on"
            if {WEIGHTS, METRICS} & {*files}
            else f"holds {', '.join(held)}, which a run would replace",
            where=folder,
            hint="choose another folder with --output, or replace it with --overwrite",
        )
    return None


def is_finished(facts: Mapping[str, Any], steps: int) -> bool:
    """Whether a checkpoint with these facts is the end of a run of so many updates."""
    return bool(facts["stopped"]) or facts["step"] == facts["evaluated"] >= steps


def last_good(folder: Path, newest: Sealed) -> Sealed:
    """Where a run goes on with other settings: where it ended early, that is its best checkpoint."""
    facts = newest.facts
    best = (
        checkpoint_of(folder, int(facts["best"]["row"]["step"]))
        if facts["stopped"] and facts["best"]
        else None
    )
    if best and best.folder != newest.folder:
        say(f"the run ended early ({facts['stopped']}): it goes on from the best checkpoint, {best.folder}")
    return as_of_today(best) if best else newest
