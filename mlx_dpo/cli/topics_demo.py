"""mlx-dpo topics demo"""

import click

from .options import PATH


@click.command("demo")
@click.option(
    "--output",
    type=PATH,
    default="runs/topics-demo",
    show_default=True,
    metavar="FOLDER",
    help="Folder for everything the demo makes.",
)
@click.option("--overwrite", is_flag=True, help="Replace an earlier demo in that folder.")
def topics_demo(output, overwrite):
    """Run every step offline on passages of State of the Union addresses.

    The steps are bags of words, training, preferences without an LLM, figures and a page.

    \b
    Example:
      mlx-dpo topics demo --output runs/topics-demo
    """
    from . import say_blas_note

    say_blas_note()
    from ..demo.run_topics_demo import tell_topics

    tell_topics(output, overwrite=overwrite)
