"""mlx-dpo gen-pairs"""

from dataclasses import asdict

import click

from ..console import show, show_json
from ..printed_commands import assignment
from .next_command import run_settings
from .options import config_option, flags, json_option, repeated, resolve, set_option, setting_option


@click.command("gen-pairs")
@config_option
@setting_option("--source", "pairs.source", "Curated rows, or pairs, whose chosen answers are used.")
@setting_option("--output", "pairs.output", "Folder for train.jsonl and valid.jsonl.")
@setting_option("--model", "model.path", "The base model.")
@setting_option("--limit", "pairs.limit", "Use only the first N rows.")
@setting_option("--max-tokens", "generate.max_tokens", "Maximum length of an answer, in tokens.")
@setting_option("--seed", "generate.seed", "Sampling seed.")
@set_option
@json_option
def gen_pairs(config_file, overrides, as_json):
    """Make preference pairs from curated answers.

    Curated answers are chosen, sampled answers of the base model are rejected. You can interrupt the
    command at any time; run it again to continue.

    \b
    Example:
      mlx-dpo gen-pairs --config config/granite_dpo.yaml --limit 100
      mlx-dpo gen-pairs --model models/mine --source data/curated.jsonl --output data/pairs
    """
    config = resolve(config_file, overrides)
    from . import say_blas_note

    say_blas_note()
    from ..jobs.gen_pairs import generate_pairs

    counts = generate_pairs(config)
    if as_json:
        show_json(asdict(counts))
        return
    show(str(counts))
    output = config.pairs.output
    settings = [
        assignment("data.train", f"{output}/train.jsonl"),
        assignment("data.valid", f"{output}/valid.jsonl" if counts.valid else None),
        *run_settings(config),
    ]
    show(f"next: {repeated('inspect', config_file, [*overrides, *flags()], settings)}")
