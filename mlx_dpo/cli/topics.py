"""mlx-dpo topics"""

import click

from .topics_demo import topics_demo
from .topics_eval import topics_eval
from .topics_prefer import topics_prefer
from .topics_prepare import topics_prepare
from .topics_report import topics_report
from .topics_train import topics_train


@click.group()
def topics():
    """Train topic models, and improve weak topics with preferences.

    \b
    Example:
      mlx-dpo topics demo
      mlx-dpo topics prepare --source texts.jsonl --output data/topics
      mlx-dpo topics train --config config/topics.yaml
      mlx-dpo topics eval --run runs/topics
      mlx-dpo topics report --run runs/topics
    """


for command in (topics_prepare, topics_train, topics_prefer, topics_eval, topics_report, topics_demo):
    topics.add_command(command)
