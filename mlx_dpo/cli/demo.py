"""mlx-dpo demo"""

import click

from .options import PATH


class _BetaRule(click.ParamType):
    """The rules that are registered, which need mlx: they are loaded where they are shown or checked."""

    name = "rule"

    def _choice(self) -> click.Choice:
        from ..losses import BETA_RULES

        return click.Choice([*BETA_RULES])

    def get_metavar(self, *arguments):
        return self._choice().get_metavar(*arguments)

    def convert(self, *arguments):
        return self._choice().convert(*arguments)


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
    type=_BetaRule(),
    help="How beta moves in training; by default it does not.",
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
