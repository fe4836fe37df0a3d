"""mlx-dpo topics"""

import click

from .topics_train import topics_train


@click.group()
def topics():
    """Train topic models, and improve weak topics with preferences.

    \b
    Example:
      mlx-dpo topics train --config config/topics.yaml
    """


for command in (topics_train,):
    topics.add_command(command)
