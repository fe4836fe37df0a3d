"""What train and sft have in common: their options, and the steps of a run."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..console import show, show_json
from ..errors import DpoError
from .options import (
    config_option,
    files_options,
    json_option,
    overwrite_option,
    resolve,
    resume_option,
    set_option,
    setting_option,
)

if TYPE_CHECKING:
    from ..config import RunConfig


def training_options(data: str) -> Callable:
    """The options of a command that trains; `data` is the help of --data."""
    options = [
        config_option,
        files_options(data, "Held-out rows, never trained on."),
        setting_option("--model", "model.path", "The base model."),
        setting_option("--output", "run.output", "The run's folder."),
        overwrite_option,
        resume_option,
        click.option(
            "--accept-changes",
            is_flag=True,
            help="Continue a run although its data, model or settings have changed.",
        ),
        set_option,
        json_option,
    ]

    def add(command: Callable) -> Callable:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def run_training(
    following: Callable[["RunConfig", Path], str],
    config_file: str | None,
    overrides: Sequence[str],
    *,
    overwrite: bool,
    resume: bool,
    accept_changes: bool,
    as_json: bool,
) -> None:
    """Train as configured, write the report if its libraries are installed, and print where the results are.

    Args:
        following: gives the next command, from the run's settings and its folder.
    """
    if overwrite and (resume or accept_changes):
        raise click.UsageError(
            "--overwrite starts a new run; it cannot be used with --resume or --accept-changes"
        )
    config = resolve(config_file, overrides)
    from . import say_blas_note

    say_blas_note()
    from ..jobs.generate_commands import ask_run
    from ..jobs.report import current_report, missing_libraries, report_run
    from ..jobs.train import train_run

    folder, held_out = train_run(config, overwrite=overwrite, resume=resume, accept_changes=accept_changes)
    report = current_report(folder)
    if not report and not missing_libraries():
        report = report_run(folder)
    if as_json:
        show_json({"run": str(folder), "held_out": held_out, "report": report and str(report)})
        return
    show(f"run: {folder}")
    if report:
        show(f"report: {report}")
    with suppress(DpoError):  # a base model on the Hub may be out of reach by now; the run is complete
        show(f"ask it: {ask_run(folder)}")
    with suppress(DpoError):  # settings for sft need not be valid for train
        show(f"next: {following(config, folder)}")
