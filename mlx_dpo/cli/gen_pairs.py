"""mlx-dpo gen-pairs"""

from dataclasses import asdict

import click

from ..console import show, show_json
from ..printed_commands import assignment, command_line
from .next_command import run_settings
from .options import config_option, flags, json_option, repeated, resolve, set_option, setting_option


@click.command("gen-pairs")
@config_option
@setting_option(
    "--source", "pairs.source", "Curated rows; pairs, whose chosen answers are used; or prompts alone."
)
@setting_option("--output", "pairs.output", "Folder for completions.jsonl, train.jsonl and valid.jsonl.")
@setting_option("--model", "model.path", "The base model.")
@setting_option(
    "--adapter", "model.adapter", "Sample from the base model with this adapter, such as a run folder."
)
@setting_option("--samples", "pairs.samples", "Answers sampled for each prompt.")
@setting_option("--endpoint", "endpoint.url", "Sample from an OpenAI-compatible server at this address.")
@setting_option("--endpoint-model", "endpoint.model", "The server's name for the model.")
@setting_option("--limit", "pairs.limit", "Use only the first N rows.")
@setting_option("--max-tokens", "generate.max_tokens", "Maximum length of an answer, in tokens.")
@setting_option("--seed", "generate.seed", "Sampling seed.")
@set_option
@json_option
def gen_pairs(config_file, overrides, as_json):
    """Make preference pairs from curated answers, or several answers a prompt for a judge.

    Curated answers are chosen, sampled answers are rejected. If the rows have no answers, gen-pairs writes
    only the sampled ones, which mlx-dpo judge ranks. You can interrupt the command at any time; run it again
    to continue.

    \b
    Example:
      mlx-dpo gen-pairs --config config/granite_dpo.yaml --limit 100
      mlx-dpo gen-pairs --model models/mine --source data/curated.jsonl --output data/pairs
      mlx-dpo gen-pairs --source prompts.jsonl --samples 4 --endpoint http://localhost:8080/v1
    """
    config = resolve(config_file, overrides)
    from . import say_blas_note

    say_blas_note()
    from ..jobs.gen_pairs import generate_pairs
    from ..pairs.completions import COMPLETIONS, SampleCounts

    counts = generate_pairs(config)
    if as_json:
        show_json(asdict(counts))
        return
    show(str(counts))
    output = config.pairs.output
    if isinstance(counts, SampleCounts):
        judge = command_line(["mlx-dpo", "judge", "--completions", f"{output}/{COMPLETIONS}"])
        more = repeated("gen-pairs", config_file, [*overrides, *flags()], ["pairs.samples=3"])
        show(f"next: {judge if counts.samples > 1 else more}")
        return
    settings = [
        assignment("data.train", f"{output}/train.jsonl"),
        assignment("data.valid", f"{output}/valid.jsonl" if counts.valid else None),
        *run_settings(config),
    ]
    show(f"next: {repeated('inspect', config_file, [*overrides, *flags()], settings)}")
