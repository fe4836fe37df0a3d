"""mlx-dpo config"""

import json
import textwrap

import click

from .options import config_option, json_option, resolve, set_option


@click.command("config")
@config_option
@set_option
@json_option
def config(config_file, overrides, as_json):
    """Print every setting with its value and meaning, as a settings file to start from.

    \b
    Example:
      mlx-dpo config > my.yaml
      mlx-dpo config --config config/granite_dpo.yaml --set beta.value=0.2
    """
    from ..config import RunConfig
    from ..settings import as_plain, described, to_yaml

    values = as_plain(resolve(config_file, overrides))
    if as_json:
        rows = [
            {"name": name, "default": default, "help": help, "choices": list(choices)}
            for name, default, help, choices in described(RunConfig)
        ]
        click.echo(json.dumps({"settings": rows, "resolved": values}, indent=1))
        return
    section = None
    for name, default, help, choices in described(RunConfig):
        head, key = name.split(".")
        if head != section:
            click.echo(("" if section is None else "\n") + f"{head}:")
            section = head
        notes = f"{help} ({' | '.join(choices)})" if choices else help
        notes += f" [default: {json.dumps(default)}]"
        for line in textwrap.wrap(notes, 100):
            click.echo(f"  # {line}")
        click.echo("  " + to_yaml({key: values[head][key]}).rstrip().replace("\n", "\n  "))
