"""mlx-dpo demo"""

import click

from .options import PATH


@click.command()
@click.option(
    "--output",
    type=PATH,
    default="runs/demo",
    show_default=True,
    metavar="FOLDER",
    help="Where all of it goes.",
)
@click.option(
    "--beta-rule",
    default="fixed",
    show_default=True,
    type=click.Choice(["fixed", "risk", "beta_dpo"]),
    help="How beta moves in training.",
)
@click.option("--overwrite", is_flag=True, help="Replace an earlier demo in that folder.")
def demo(output, beta_rule, overwrite):
    """Run the main job offline on a tiny Granite hybrid: pairs, training, evaluation, fusing.

    \b
    Example:
      mlx-dpo demo --output runs/demo
      mlx-dpo demo --output runs/demo-risk --beta-rule risk
    """
    from . import say_blas_note

    say_blas_note()
    from ..demo.story import tell

    tell(output, beta_rule, overwrite=overwrite)
