"""What train and sft have in common: their options and the way through a run."""

import json
import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress

import click

from ..errors import DpoError
from .options import (
    config_option,
    json_option,
    overwrite_option,
    resolve,
    set_option,
    setting_option,
)


def training_options(command: Callable) -> Callable:
    """The options of a command that trains."""
    options = [
        config_option,
        setting_option("--model", "model.path", "The base model."),
        setting_option("--output", "run.output", "The run's folder."),
        overwrite_option,
        click.option(
            "--resume", is_flag=True, help="Go on with the run that is there; without one it is an error."
        ),
        click.option(
            "--accept-changes",
            is_flag=True,
            help="Go on with a run although data, model or settings changed.",
        ),
        set_option,
        json_option,
    ]
    for option in reversed(options):
        command = option(command)
    return command


def run_training(
    following: str,
    config_file: str | None,
    overrides: Sequence[str],
    *,
    overwrite: bool,
    resume: bool,
    accept_changes: bool,
    as_json: bool,
) -> None:
    """Train as configured, write the report where its libraries are installed, say what lies where.

    Args:
        following: what comes next, with {} for the run's folder.
    """
    if overwrite and (resume or accept_changes):
        raise click.UsageError("--overwrite begins anew: it goes neither with --resume nor --accept-changes")
    config = resolve(config_file, overrides)
    from . import say_blas_note

    say_blas_note()
    from ..jobs.ask import ask_run
    from ..jobs.report import current_report, missing_libraries, report_run
    from ..jobs.train import train_run

    folder, held_out = train_run(config, overwrite=overwrite, resume=resume, accept_changes=accept_changes)
    report = current_report(folder)
    if not report and not missing_libraries():
        report = report_run(folder)
    if as_json:
        facts = {"run": str(folder), "held_out": held_out, "report": report and str(report)}
        click.echo(json.dumps(facts))
        return
    click.echo(f"run: {folder}")
    if report:
        click.echo(f"report: {report}")
    with suppress(DpoError):  # a base on the Hub may be out of reach by now; the run is whole
        click.echo(f"ask it: {ask_run(folder)}")
    click.echo(f"next: {following.format(shlex.quote(str(folder)))}")
