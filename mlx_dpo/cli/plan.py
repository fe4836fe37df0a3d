"""mlx-dpo plan"""

import math

import click

from ..console import show, show_json
from .options import (
    config_option,
    data_files,
    files_options,
    json_option,
    resolve,
    set_option,
    setting_option,
)


def _finite(context, option, value):
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not an amount of memory.")
    return value


@click.command()
@config_option
@setting_option("--model", "model.path", "The base model.")
@files_options("Pairs to plan for; without --valid, none are held out.", "Held-out pairs.")
@click.option(
    "--memory",
    metavar="GB",
    type=click.FloatRange(1, 100_000),
    callback=_finite,
    help="Plan for a Mac with this much memory; by default for this machine.",
)
@set_option
@json_option
def plan(config_file, data, valid, memory, overrides, as_json):
    """Estimate what a training run needs, without loading weights.

    \b
    Example:
      mlx-dpo plan --config config/granite_dpo.yaml
      mlx-dpo plan --config config/granite_dpo.yaml --memory 16 --set data.max_length=2048
      mlx-dpo plan --model models/mine --data my_pairs.jsonl
    """
    config = resolve(config_file, [*data_files(data, valid), *overrides])
    from ..jobs.plan import plan_run

    found = plan_run(config, memory)
    if as_json:
        show_json(found.as_json(), indent=1)
    else:
        show(found.text())
    if found.chosen is None:
        raise found.refusal()
