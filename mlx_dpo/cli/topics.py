"""mlx-dpo topics"""

import click

from .topics_eval import topics_eval
from .topics_prefer import topics_prefer
from .topics_prepare import topics_prepare
from .topics_train import topics_train


@click.group()
def topics():
    """Train topic models, and improve weak topics with preferences.

    \b
    Example:
      mlx-dpo topics prepare --source texts.jsonl --output data/topics
      mlx-dpo topics train --config config/topics.yaml
      mlx-dpo topics eval --run runs/topics
    """


for command in (topics_prepare, topics_train, topics_prefer, topics_eval):
    topics.add_command(command)
