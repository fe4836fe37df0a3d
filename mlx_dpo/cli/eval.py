"""mlx-dpo eval"""

import json
from dataclasses import asdict

import click

from .options import PATH, json_option, model_option


@click.command("eval")
@click.option(
    "--run", "folder", required=True, type=PATH, metavar="FOLDER", help="A run folder of mlx-dpo train."
)
@click.option(
    "--data", type=PATH, metavar="FILE", help="Pairs to judge by; the run's own held-out pairs by default."
)
@model_option
@click.option(
    "--samples",
    default=3,
    show_default=True,
    type=click.IntRange(0, 100_000),
    help="Prompts that both models answer.",
)
@json_option
def evaluate(folder, data, model, samples, as_json):
    """Judge a run on held-out pairs, and show answers of base and tuned model side by side.

    \b
    Example:
      mlx-dpo eval --run runs/granite-dpo
      mlx-dpo eval --run runs/granite-dpo --data other/valid.jsonl --json
    """
    from . import say_blas_note

    say_blas_note()
    from ..evaluation.preference import evaluation_text
    from ..jobs.ask import ask_run
    from ..jobs.evaluate import evaluate_run

    result = evaluate_run(folder, data, samples, model)
    if as_json:
        click.echo(json.dumps(asdict(result), ensure_ascii=False))
        return
    click.echo(evaluation_text(result))
    click.echo(f"\nask it: {ask_run(folder, model)}")
