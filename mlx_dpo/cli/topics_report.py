"""mlx-dpo topics report"""

from dataclasses import asdict
from pathlib import Path

import click

from ..console import show, show_json
from .options import PATH, json_option
from .topics_options import corpus_now_option, topics_run_option


@click.command("report")
@topics_run_option
@click.option(
    "--seed-run",
    "seed_runs",
    type=PATH,
    metavar="FOLDER",
    multiple=True,
    help="The same run with another seed, for a table of means over all these runs. Repeatable.",
)
@corpus_now_option
@json_option
def topics_report(folder, seed_runs, corpus, as_json):
    """Write a one-page report of a topic model.

    It shows each topic's words with bars, the words before and after preferences, figures, curves and
    settings. The report is report.html in the run's folder: one file that works offline, also on a phone.

    \b
    Example:
      mlx-dpo topics report --run runs/topics
      mlx-dpo topics report --run runs/seed-0 --seed-run runs/seed-1 --seed-run runs/seed-2
    """
    from ..jobs.topics_report import report_topics

    path, over_seeds = report_topics(Path(folder), corpus, [Path(run) for run in seed_runs])
    if as_json:
        show_json({"report": str(path)} | ({"over_seeds": asdict(over_seeds)} if over_seeds else {}))
    else:
        show(f"report: {path}")
