"""mlx-dpo topics report"""

from pathlib import Path

import click

from ..console import show, show_json
from .options import json_option
from .topics_options import corpus_now_option, topics_run_option


@click.command("report")
@topics_run_option
@corpus_now_option
@json_option
def topics_report(folder, corpus, as_json):
    """Write a one-page report of a topic model.

    It shows each topic's words with bars, the words before and after preferences, figures, curves and
    settings. The report is report.html in the run's folder: one file that works offline, also on a phone.

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
