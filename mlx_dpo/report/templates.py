"""Pages from templates: everything that is filled in is escaped."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Setting(NamedTuple):
    """One setting by its dotted name."""

    name: str
    value: Any
    default: Any


def filled(template: str, **values: Any) -> str:
    """A template of this folder with these values. Equal values give equal text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = plain
    return environment.get_template(template).render(**values)


def by_default(settings: Sequence[Setting]) -> dict[str, list[Setting]]:
    """The settings that differ from their defaults (`changed`), and the others (`unchanged`)."""
    return {
        "changed": [s for s in settings if s.value != s.default],
        "unchanged": [s for s in settings if s.value == s.default],
    }


def plain(value: Any) -> str:
    """A setting or a measure as text: numbers shortened, text unchanged, other values as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.6g}"
    return json.dumps(value, ensure_ascii=False)
