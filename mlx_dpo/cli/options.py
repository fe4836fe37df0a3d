"""Options that several commands share."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..config import RunConfig

config_option = click.option(
    "--config",
    "config_file",
    metavar="FILE",
    help="Settings file (YAML); mlx-dpo config shows every setting.",
)
set_option = click.option(
    "--set", "overrides", metavar="SECTION.KEY=VALUE", multiple=True, help="Override one setting; repeatable."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace a run that is there already.")


def setting_option(flag: str, name: str, help: str) -> Callable:
    """A flag that is short for --set NAME=VALUE."""

    def note(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value is not None:
            context.ensure_object(dict).setdefault("flags", []).append(f"{name}={value}")

    return click.option(
        flag, metavar="VALUE", expose_value=False, callback=note, help=f"{help}  [--set {name}]"
    )


def resolve(config_file: str | None, overrides: Sequence[str]) -> "RunConfig":
    """Defaults, then the file, then --set, then named flags."""
    from ..config import load_config

    flags = (click.get_current_context().obj or {}).get("flags", [])
    return load_config(config_file, [*overrides, *flags])
