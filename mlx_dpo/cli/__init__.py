"""mlx-dpo: one file per command."""

import sys

import click

from .. import __version__, blas_note
from ..console import printable, say
from ..errors import DpoError
from .config import config
from .demo import demo
from .eval import evaluate
from .fuse import fuse
from .gen_pairs import gen_pairs
from .inspect import inspect
from .options import settings_like
from .plan import plan
from .report import report
from .sft import sft
from .train import train

_MEANT = {
    **dict.fromkeys(("dpo", "lora", "finetune", "fine-tune"), "Did you mean 'train'?"),
    **dict.fromkeys(("orpo", "simpo", "cpo", "ipo"), "It is a loss of 'train': --set loss.name=NAME."),
    **dict.fromkeys(("grpo", "ppo", "rlhf", "kto"), "'train' learns from pairs; it does not have this."),
    **dict.fromkeys(("merge", "export"), "Did you mean 'fuse'?"),
    "evaluate": "Did you mean 'eval'?",
}
"""Commands of other trainers, to what there is instead."""


class _Commands(click.Group):
    def resolve_command(self, ctx: click.Context, args: list[str]):
        """Raises UsageError with what was meant, where click's nearest name would be another thing."""
        if meant := _MEANT.get(args[0].lower()):
            raise click.UsageError(f"No such command {args[0]!r}. {meant}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__, prog_name="mlx-dpo")
def cli():
    """Preference fine-tuning on a Mac: curated answers in, a better fused model out.

    \b
    Example:
      mlx-dpo demo
      mlx-dpo gen-pairs --config config/granite_dpo.yaml --limit 100
      mlx-dpo inspect --config config/granite_dpo.yaml
      mlx-dpo plan --config config/granite_dpo.yaml --memory 16
      mlx-dpo train --config config/granite_dpo.yaml
      mlx-dpo eval --run runs/granite-dpo
      mlx-dpo report --run runs/granite-dpo
      mlx-dpo fuse --run runs/granite-dpo --output models/granite-dpo
    """


for command in (demo, gen_pairs, inspect, plan, sft, train, evaluate, report, fuse, config):
    cli.add_command(command)


def main(arguments: list[str] | None = None) -> None:
    """Run a command; exit 0 on success, 1 on a user's mistake, 2 on wrong usage, 130 on Ctrl-C."""
    try:
        code = cli.main(args=arguments, prog_name="mlx-dpo", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except DpoError as error:
        say(f"Error: {error}", style="red")
        sys.exit(1)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        if isinstance(error, click.NoSuchOption):
            error.possibilities = settings_like(error) or error.possibilities
        error.message = printable(error.message)
        error.show()
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def say_blas_note() -> None:
    """Say once what makes this machine slow, if something does."""
    if blas_note:
        say(f"note: {blas_note}")
