"""mlx-dpo demo"""

import click

from .options import demo_output_option, demo_overwrite_option


class _BetaRule(click.ParamType):
    """The registered rules, which need mlx: they are loaded only when they are shown or checked."""

    name = "rule"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        from ..losses import BETA_RULES

        return f"[{'|'.join(BETA_RULES)}]"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from ..losses import BETA_RULES

        return click.Choice([*BETA_RULES]).convert(value, param, ctx)


@click.command()
@demo_output_option("runs/demo")
@click.option(
    "--beta-rule",
    type=_BetaRule(),
    help="How beta changes during training; by default it stays the same.",
)
@demo_overwrite_option
def demo(output, beta_rule, overwrite):
    """Run every step offline on a tiny Granite hybrid.

    The steps are pairs, training, evaluation and fusing.

    \b
    Example:
      mlx-dpo demo --output runs/demo
      mlx-dpo demo --output runs/demo-risk --beta-rule risk
    """
    from . import say_blas_note

    say_blas_note()
    from ..demo.run_demo import tell

    tell(output, beta_rule, overwrite=overwrite)
