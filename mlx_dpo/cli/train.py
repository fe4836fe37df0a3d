"""mlx-dpo train"""

import json
import shlex
from typing import TYPE_CHECKING

import click

from .options import (
    check_exclusive,
    config_option,
    continue_options,
    json_option,
    overwrite_option,
    resolve,
    set_option,
    setting_option,
)

if TYPE_CHECKING:
    from ..jobs.fit import TrainResult


@click.command()
@config_option
@setting_option("--model", "model.path", "The base model.")
@setting_option("--output", "run.output", "The run's folder.")
@overwrite_option
@continue_options
@set_option
@json_option
def train(config_file, overrides, overwrite, resume, accept_changes, as_json):
    """Train an adapter on preference pairs, or go on with a run that was stopped.

    \b
    Example:
      mlx-dpo train --config config/granite_dpo.yaml
      mlx-dpo train --config config/granite_dpo.yaml --set beta.value=0.2 --output runs/beta-0.2

    A run that was stopped, killed or cut off goes on from its last checkpoint when the same command is given
    again.
    """
    check_exclusive(overwrite, resume, accept_changes)
    config = resolve(config_file, overrides)
    from . import say_blas_note

    say_blas_note()
    from ..jobs.train import train_run

    result = train_run(config, overwrite=overwrite, resume=resume, accept_changes=accept_changes)
    tell(result, f"mlx-dpo eval --run {shlex.quote(str(result.folder))}", as_json)


def tell(result: "TrainResult", following: str, as_json: bool) -> None:
    """Write the report, where its libraries are installed; say where the run lies and what comes next."""
    from ..jobs.report import current_report, missing_libraries, report_run

    report = current_report(result.folder)
    if not report and not missing_libraries():
        report = report_run(result.folder)
    report = report and str(report)
    if as_json:
        click.echo(json.dumps({"run": str(result.folder), "held_out": result.held_out, "report": report}))
        return
    click.echo(f"run: {result.folder}")
    if report:
        click.echo(f"report: {report}")
    click.echo(f"next: {following}")
