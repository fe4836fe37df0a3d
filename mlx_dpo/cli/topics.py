"""mlx-dpo topics"""

import click


@click.group()
def topics():
    """Train topic models, and improve weak topics with preferences.

    \b
    Example:
      mlx-dpo topics train --config config/topics.yaml
    """
