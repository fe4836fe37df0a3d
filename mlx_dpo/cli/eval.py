"""mlx-dpo eval"""

from dataclasses import asdict
from pathlib import Path

import click

from ..console import show, show_json
from ..printed_commands import fuse_command
from .options import PATH, json_option, model_option, run_option


@click.command("eval")
@run_option
@click.option(
    "--data",
    type=PATH,
    metavar="FILE",
    multiple=True,
    help="Pairs to evaluate on; by default the held-out pairs of the run.",
)
@model_option
@click.option(
    "--samples",
    default=3,
    show_default=True,
    type=click.IntRange(0, 100_000),
    help="Number of prompts that both models answer.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(1),
    help="Maximum length of these answers, in tokens; by default the run's generate.max_tokens, at most 256.",
)
@json_option
def evaluate(folder, data, model, samples, max_tokens, as_json):
    """Evaluate a run on held-out pairs.

    Prints figures, and answers of the base model and the tuned model. Figures of the run's own held-out pairs
    are kept in evaluation.json in its folder, for the model card of mlx-dpo push.

    \b
    Example:
      mlx-dpo eval --run runs/granite-dpo
      mlx-dpo eval --run runs/granite-dpo --data other/valid.jsonl --json
    """
    from . import say_blas_note

    say_blas_note()
    from ..evaluation.preference import evaluation_text
    from ..jobs.evaluate import evaluate_run
    from ..jobs.generate_commands import ask_run
    from ..jobs.kept_evaluation import keep_evaluation

    result = evaluate_run(folder, list(data) or None, samples, model, max_tokens)
    if not data and result.trained_on == 0:
        keep_evaluation(Path(folder), result)
    if as_json:
        show_json(asdict(result))
        return
    show(evaluation_text(result))
    show(f"\nask it: {ask_run(folder, model)}")
    show(f"next: {fuse_command(folder, model)}")
