"""mlx-dpo train"""

import click

from ..printed_commands import fuse_command
from .next_command import judging
from .options import data_files
from .run_command import run_training, training_options


@click.command()
@training_options("Pairs to train on; without --valid, none are held out.")
def train(config_file, overrides, data, valid, **options):
    """Train an adapter on preference pairs.

    \b
    Example:
      mlx-dpo train --config config/granite_dpo.yaml
      mlx-dpo train --config config/granite_dpo.yaml --set beta.value=0.2 --output runs/beta-0.2
      mlx-dpo train --model models/mine --data my_pairs.jsonl --valid my_valid.jsonl --output runs/mine

    To continue a run that was stopped or killed, give the same command again, without --overwrite: the run
    continues from its last checkpoint. With --accept-changes you can change settings or data; a run that had
    ended early then continues from its best checkpoint.
    """

    def following(config, folder):
        return judging(folder) if config.data.valid else fuse_command(folder)

    run_training(following, config_file, [*data_files(data, valid), *overrides], **options)
