"""mlx-dpo export"""

import click

from .export_hf import export_hf


@click.group()
def export():
    """Write a run's model for other programs.

    \b
    Example:
      mlx-dpo export hf --run runs/granite-dpo --output models/granite-dpo-hf
    """


export.add_command(export_hf)
