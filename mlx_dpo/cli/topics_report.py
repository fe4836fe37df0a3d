"""mlx-dpo topics report"""

from pathlib import Path

import click

from ..console import show, show_json
from .options import json_option
from .topics_eval import corpus_now_option, topics_run_option


@click.command("report")
@topics_run_option
@corpus_now_option
@json_option
def topics_report(folder, corpus, as_json):
    """Write a page with the topics of a run, before and after preferences, and their figures.

    The report is report.html in the run's folder: one file that works offline.

    \b
    Example:
      mlx-dpo topics report --run runs/topics
    """
    from ..jobs.topics_report import report_topics

    path = report_topics(Path(folder), corpus)
    if as_json:
        show_json({"report": str(path)})
    else:
        show(f"report: {path}")
