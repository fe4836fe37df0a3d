"""mlx-dpo topics demo"""

import click

from .options import demo_output_option, demo_overwrite_option


@click.command("demo")
@demo_output_option("runs/topics-demo")
@demo_overwrite_option
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
