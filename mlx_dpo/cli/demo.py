"""mlx-dpo demo"""

import click


@click.command()
@click.option(
    "--output", default="runs/demo", show_default=True, metavar="FOLDER", help="Where all of it goes."
)
@click.option("--overwrite", is_flag=True, help="Replace an earlier demo in that folder.")
def demo(output, overwrite):
    """Run the main job offline on a tiny Granite hybrid: pairs, training, evaluation, fusing.

    \b
    Example:
      mlx-dpo demo --output runs/demo
    """
    from . import say_blas_note

    say_blas_note()
    from ..demo.story import tell

    tell(output, overwrite=overwrite)
