"""mlx-dpo topics eval"""

from dataclasses import asdict
from pathlib import Path

import click

from ..console import show, show_json
from .options import json_option
from .topics_options import corpus_now_option, topics_run_option


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
