"""mlx-dpo sft"""

import shlex

import click

from .options import (
    check_exclusive,
    config_option,
    continue_options,
    json_option,
    overwrite_option,
    resolve,
    set_option,
    setting_option,
)
from .train import tell


@click.command()
@config_option
@setting_option("--model", "model.path", "The base model.")
@setting_option("--output", "run.output", "The run's folder.")
@overwrite_option
@continue_options
@set_option
@json_option
def sft(config_file, overrides, overwrite, resume, accept_changes, as_json):
    """Train an adapter on the curated answers alone, before pairs.

    Rows are curated ones (prompt, answer), or pairs, of which the chosen answer is learnt. What comes out is
    an adapter folder; train starts from it with model.adapter, and then it is the reference too.

    \b
    Example:
      mlx-dpo sft --config config/granite_sft.yaml
      mlx-dpo train --config config/granite_dpo.yaml --set model.adapter=runs/granite-sft
    """
    check_exclusive(overwrite, resume, accept_changes)
    config = resolve(config_file, [*overrides, "loss.name=sft"])
    from . import say_blas_note

    say_blas_note()
    from ..jobs.train import train_run

    result = train_run(config, overwrite=overwrite, resume=resume, accept_changes=accept_changes)
    tell(result, f"mlx-dpo train --set model.adapter={shlex.quote(str(result.folder))}", as_json)
