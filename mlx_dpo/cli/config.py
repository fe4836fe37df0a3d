"""mlx-dpo config"""

import json
import textwrap

import click

from ..console import json_text, printable, show, show_json
from .options import config_option, json_option, resolve, set_option


@click.command("config")
@config_option
@set_option
@json_option
def config(config_file, overrides, as_json):
    """Print every setting with its value and help.

    The output is a settings file to start from.

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
        show_json({"settings": rows, "resolved": values}, indent=1)
        return
    written: list[str] = []
    for name, default, help, choices in described(RunConfig):
        *sections, key = name.split(".")
        value = values
        for depth, section in enumerate(sections):
            value, indent = value[section], "  " * depth
            if written[: depth + 1] != sections[: depth + 1]:
                show(("\n" if written and not depth else "") + f"{indent}{section}:")
        written, indent = sections, "  " * len(sections)
        notes = f"{help} ({' | '.join(choices)})" if choices else help
        notes += f" [default: {json.dumps(default)}]"
        for line in textwrap.wrap(notes, 102 - len(indent)):
            show(f"{indent}# {line}")
        text = to_yaml({key: value[key]}).rstrip()
        if printable(text) != text:  # YAML reads JSON, and JSON has escapes
            text = f"{key}: {json_text(value[key])}"
        show(indent + text.replace("\n", f"\n{indent}"))
