"""Options that several commands share."""

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from ..errors import DpoError, quoted
from ..export.precisions import MAX_KL_RATIO
from ..printed_commands import assignment, command_line, last_ones
from ..storage.names import path_fault

if TYPE_CHECKING:
    from ..config import RunConfig
    from ..topics.config import TopicsConfig


class _Path(click.ParamType):
    """The name of a file or folder, which need not exist."""

    name = "path"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Raises DpoError if no file can have that name, such as "" from a shell variable that is not set."""
        if fault := path_fault(value):
            where = param.opts[0] if param else ""
            raise DpoError(f"{quoted(value)} {fault}", where=where, hint="give the name of a file or folder")
        return os.path.expanduser(value)


PATH = _Path()

config_option = click.option(
    "--config",
    "config_file",
    metavar="FILE",
    help="Settings file (YAML); mlx-dpo config prints every setting. Files named in it are looked up in the "
    "current folder, then in the folder of the settings file.",
)
set_option = click.option(
    "--set", "overrides", metavar="SECTION.KEY=VALUE", multiple=True, help="Override one setting; repeatable."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
model_option = click.option(
    "--model",
    type=PATH,
    metavar="PATH",
    help="Where the base model is now; by default where it was when the run was made.",
)
run_option = click.option(
    "--run", "folder", required=True, type=PATH, metavar="FOLDER", help="A run folder of mlx-dpo train."
)


def new_folder_option(what: str) -> Callable:
    """`--output`, for a command that writes a new folder."""
    help = f"Folder for {what}; must not exist yet."
    return click.option("--output", required=True, type=PATH, metavar="FOLDER", help=help)


def prove_option(program: str, library: str) -> Callable:
    """`--prove/--no-prove`, for an export that the program which will use it can read back."""
    help = f"Compare the export in {program} with MLX.  [default: if {library} is installed]"
    return click.option("--prove/--no-prove", default=None, help=help)


def max_kl_ratio_option(help: str) -> Callable:
    """`--max-kl-ratio`, for a command whose result is compared with the adapter."""
    positive = click.FloatRange(0, min_open=True)
    return click.option("--max-kl-ratio", type=positive, default=MAX_KL_RATIO, show_default=True, help=help)


overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace an existing run in the output folder."
)
resume_option = click.option(
    "--resume", is_flag=True, help="Continue the run in the output folder; an error if there is none."
)
dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Print how many requests and tokens are needed; ask nothing."
)


def demo_output_option(folder: str) -> Callable:
    """`--output` of a demo; `folder` is its default."""
    help = "Folder for everything the demo makes."
    return click.option("--output", type=PATH, default=folder, show_default=True, metavar="FOLDER", help=help)


demo_overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace an earlier demo in that folder."
)


def setting_option(flag: str, name: str, help: str) -> Callable:
    """A flag that is short for --set NAME=VALUE."""

    def note(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value is not None:
            given = context.ensure_object(dict)
            given.setdefault("flags", []).append(_as_typed(name, value))
            given.setdefault("names", {})[f"--set {name}"] = flag

    return click.option(
        flag, metavar="VALUE", expose_value=False, callback=note, help=f"{help}  [--set {name}]"
    )


def _as_typed(name: str, value: str | Sequence[str]) -> str:
    return f"{name}=null" if value == "null" else assignment(name, value)


def files_options(data: str, valid: str) -> Callable:
    """`--data` and `--valid`, which `data_files` turns into settings; with the help of each."""

    def add(command: Callable) -> Callable:
        for flag, help in (("--valid", valid), ("--data", data)):
            option = click.option(flag, type=PATH, metavar="FILE", multiple=True, help=f"{help} Repeatable.")
            command = option(command)
        return command

    return add


def data_files(data: Sequence[str], valid: Sequence[str]) -> list[str]:
    """The files as "section.key=value"; with `data` but without `valid`, no file is held out."""
    held = [_as_typed("data.valid", _one_or_all(valid or ["null"]))] if data or valid else []
    return [*([_as_typed("data.train", _one_or_all(data))] if data else []), *held]


def _one_or_all(values: Sequence[str]) -> str | Sequence[str]:
    return values[0] if len(values) == 1 else values


def resolve(config_file: str | None, overrides: Sequence[str]) -> "RunConfig":
    """Defaults, then the file, then --set, then named flags."""
    from ..config import load_config

    return _resolved(load_config, config_file, overrides)


def resolve_topics(config_file: str | None, overrides: Sequence[str]) -> "TopicsConfig":
    """As `resolve`, for the settings of topic models."""
    from ..topics.config import load_topics_config

    return _resolved(load_topics_config, config_file, overrides)


def _resolved(load: Callable[..., Any], config_file: str | None, overrides: Sequence[str]) -> Any:
    try:
        return load(config_file, [*overrides, *flags()])
    except DpoError as error:
        names = (click.get_current_context().obj or {}).get("names", {})
        error.where = names.get(error.where, error.where)
        raise


def settings_like(error: click.NoSuchOption) -> list[str]:
    """What to use instead of an unknown flag: for --lr, --set optimizer.learning_rate=VALUE."""
    from ..config import RunConfig
    from ..suggestions import called_so
    from ..topics.config import TopicsConfig

    if not error.ctx or "overrides" not in {p.name for p in error.ctx.command.params}:
        return []
    kind = TopicsConfig if "topics" in error.ctx.command_path.split() else RunConfig
    return [f"--set {name}=VALUE" for name in called_so(kind, error.option_name.lstrip("-"))]


def flags() -> list[str]:
    """The named flags of this call as "section.key=value"."""
    return (click.get_current_context().obj or {}).get("flags", [])


def repeated(command: str, config_file: str | None, overrides: Sequence[str], more: Sequence[str]) -> str:
    """Another command with this command's settings, ready for a shell."""
    words = ["mlx-dpo", command, *(["--config", config_file] if config_file else [])]
    for one in last_ones([*overrides, *more]):
        words += ["--set", one]
    return command_line(words)
