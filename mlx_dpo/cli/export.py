"""mlx-dpo export"""

import click

from .export_gguf import export_gguf
from .export_hf import export_hf
from .export_peft import export_peft


@click.group()
def export():
    """Write a run's result for other programs.

    \b
    Example:
      mlx-dpo export peft --run runs/granite-dpo --output exports/granite-dpo-peft
      mlx-dpo export hf --run runs/granite-dpo --output models/granite-dpo-hf
      mlx-dpo export gguf --run runs/granite-dpo --output models/granite-dpo-gguf --type q8_0
    """


for command in (export_peft, export_hf, export_gguf):
    export.add_command(command)
