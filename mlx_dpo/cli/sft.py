"""mlx-dpo sft"""

import click

from .training import run_training, training_options


@click.command()
@training_options
def sft(config_file, overrides, **options):
    """Train an adapter on the curated answers alone, before pairs.

    Rows are curated ones (prompt, answer), or pairs, of which the chosen answer is learnt. What comes out is
    an adapter folder; train starts from it with model.adapter, and then it is the reference too.

    \b
    Example:
      mlx-dpo sft --config config/granite_sft.yaml
      mlx-dpo train --config config/granite_dpo.yaml --set model.adapter=runs/granite-sft
    """
    run_training("train --set model.adapter=", config_file, [*overrides, "loss.name=sft"], **options)
