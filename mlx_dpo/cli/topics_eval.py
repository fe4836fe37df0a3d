"""mlx-dpo topics eval"""

from dataclasses import asdict
from pathlib import Path

import click

from ..console import show, show_json
from .options import PATH, json_option

topics_run_option = click.option(
    "--run", "folder", required=True, type=PATH, metavar="FOLDER", help="A run folder of topics train."
)
corpus_now_option = click.option(
    "--corpus",
    type=PATH,
    metavar="FOLDER",
    help="Where the corpus is now; by default where it was when the run was made.",
)


@click.command("eval")
@topics_run_option
@corpus_now_option
@json_option
def topics_eval(folder, corpus, as_json):
    """Measure a topic model: coherence and diversity of its top words, purity and NMI on labels.

    \b
    Example:
      mlx-dpo topics eval --run runs/topics
      mlx-dpo topics eval --run runs/topics --json
    """
    from ..jobs.topics_evaluate import evaluate_topics_run

    figures = evaluate_topics_run(Path(folder), corpus)
    if as_json:
        show_json(asdict(figures))
    else:
        show(str(figures))
