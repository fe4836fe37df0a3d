"""mlx-dpo gen-pairs"""

from dataclasses import asdict

import click

from ..console import say, show, show_json
from ..printed_commands import assignment
from .next_command import ranking, run_settings
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
    alone, several, given = isinstance(counts, SampleCounts), config.pairs.samples > 1, [*overrides, *flags()]
    if alone and not several:
        show(f"next: {repeated('gen-pairs', config_file, given, ['pairs.samples=3'])}")
        return
    if several and (alone or config.judge.is_named):
        if not config.judge.is_named:
            say(
                "in the next command the model judges its own answers; a larger model of another family "
                "judges better: give --model, or --endpoint with the address of its server"
            )
        show(f"next: {ranking(config, f'{output}/{COMPLETIONS}', config_file, given)}")
        return
    if several:
        show(f"to rank all answers: {ranking(config, f'{output}/{COMPLETIONS}', config_file, given)}")
    settings = [
        assignment("data.train", f"{output}/train.jsonl"),
        assignment("data.valid", f"{output}/valid.jsonl" if counts.valid else None),
        *run_settings(config),
    ]
    show(f"next: {repeated('inspect', config_file, given, settings)}")
