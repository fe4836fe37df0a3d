"""mlx-dpo: one file per command."""

import io
import os
import sys

import click

from .. import __version__, blas_note
from ..console import printable, say
from ..errors import DpoError
from ..machine.interrupt import Terminated, terminated_like_interrupted, was_told
from .config import config
from .demo import demo
from .eval import evaluate
from .export import export
from .fuse import fuse
from .gen_pairs import gen_pairs
from .inspect import inspect
from .judge import judge
from .options import settings_like
from .plan import plan
from .push import push
from .report import report
from .sft import sft
from .topics import topics
from .train import train

_MEANT = {
    **dict.fromkeys(("dpo", "lora", "finetune", "fine-tune"), "Did you mean 'train'?"),
    **dict.fromkeys(("orpo", "simpo", "cpo", "ipo"), "It is a loss: mlx-dpo train --set loss.name=NAME."),
    **dict.fromkeys(
        ("grpo", "ppo", "rlhf", "kto"), "It is not available; 'train' learns from preference pairs."
    ),
    "merge": "Did you mean 'fuse'?",
    "evaluate": "Did you mean 'eval'?",
}
"""Commands of other trainers, each with what to use here instead."""


class _Commands(click.Group):
    def resolve_command(self, ctx: click.Context, args: list[str]):
        """Raises UsageError with the command that was meant, where click would suggest a wrong one."""
        if meant := _MEANT.get(args[0].lower()):
            raise click.UsageError(f"No such command {args[0]!r}. {meant}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__, prog_name="mlx-dpo")
def cli():
    """Preference fine-tuning on a Mac, from curated answers to a fused model.

    \b
    Example:
      mlx-dpo demo
      mlx-dpo gen-pairs --config config/granite_dpo.yaml --limit 100
      mlx-dpo judge --config config/judge.yaml
      mlx-dpo inspect --config config/granite_dpo.yaml
      mlx-dpo plan --config config/granite_dpo.yaml --memory 16
      mlx-dpo train --config config/granite_dpo.yaml
      mlx-dpo eval --run runs/granite-dpo
      mlx-dpo report --run runs/granite-dpo
      mlx-dpo fuse --run runs/granite-dpo --output models/granite-dpo
      mlx-dpo export hf --run runs/granite-dpo --output models/granite-dpo-hf
      mlx-dpo push models/granite-dpo OWNER/granite-dpo
    """
    try:
        os.getcwd()
    except OSError as error:
        what = f"the current folder cannot be used: {error.strerror}"
        raise DpoError(what, hint="the folder was deleted or moved; cd to a folder that exists") from None


for command in (
    demo,
    gen_pairs,
    judge,
    inspect,
    plan,
    sft,
    train,
    evaluate,
    report,
    fuse,
    export,
    push,
    topics,
    config,
):
    cli.add_command(command)


def main(arguments: list[str] | None = None) -> None:
    """Run a command; exit 0 on success, 1 on a user's mistake, 2 on wrong usage, 130 on Ctrl-C.

    SIGTERM gives 143, or 130 if training ended between two micro-batches. Characters that stdout cannot
    encode are written as escapes.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with terminated_like_interrupted():
            code = cli.main(args=arguments, prog_name="mlx-dpo", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except DpoError as error:
        say(f"Error: {error}", style="red")
        sys.exit(1)
    except click.exceptions.Abort as abort:
        sys.exit(_interrupted(abort.__cause__))
    except click.ClickException as error:
        if isinstance(error, click.NoSuchOption):
            error.possibilities = settings_like(error) or error.possibilities
        error.message = printable(error.message)
        error.show()
        sys.exit(error.exit_code)
    except KeyboardInterrupt as stop:
        sys.exit(_interrupted(stop))
    except OSError as error:
        if error.filename is not None:
            raise
        # stdout is broken: flushing the rest of the output would fail again when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        hint = "free some space on that disk, or write the output to another place"
        say(f"Error: the output cannot be written: {error.strerror}\n  {hint}", style="red")
        sys.exit(1)


def _interrupted(stop: BaseException | None) -> int:
    """The exit code; says what was kept, if no command has said it."""
    if not was_told(stop):
        say("interrupted: everything saved so far is kept; run the same command again to continue")
    return 143 if isinstance(stop, Terminated) else 130


def say_blas_note() -> None:
    """Say what makes this machine slow, if anything does."""
    if blas_note:
        say(f"note: {blas_note}")
