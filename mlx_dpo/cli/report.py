"""mlx-dpo report"""

import click

from ..console import show, show_json
from .options import json_option, run_option


@click.command()
@run_option
@json_option
def report(folder, as_json):
    """Write a one-page report of a run.

    It shows curves, alarms, data, answers and settings. The report is report.html in the run's folder:
    one file that works offline, also on a phone.

    \b
    Example:
      mlx-dpo report --run runs/granite-dpo
    """
    from ..jobs.report import report_run

    path = report_run(folder)
    if as_json:
        show_json({"report": str(path)})
    else:
        show(f"report: {path}")
