"""mlx-dpo train"""

import click

from .training import run_training, training_options


@click.command()
@training_options
def train(config_file, overrides, **options):
    """Train an adapter on preference pairs, or go on with a run that was stopped.

    \b
    Example:
      mlx-dpo train --config config/granite_dpo.yaml
      mlx-dpo train --config config/granite_dpo.yaml --set beta.value=0.2 --output runs/beta-0.2

    A run that was stopped, killed or cut off goes on from its last checkpoint when the same command is given
    again, without --overwrite. With --accept-changes it goes on with other settings or data; one that had
    ended early goes on from its best checkpoint.
    """
    run_training("mlx-dpo eval --run {}", config_file, overrides, **options)
