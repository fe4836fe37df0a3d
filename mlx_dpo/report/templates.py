"""Pages from the templates of this folder: one HTML file each, without anything from elsewhere."""

import json
from pathlib import Path
from typing import Any


def rendered(template: str, **values: Any) -> str:
    """A page as HTML; texts in it are escaped. Equal values give equal text.

    Args:
        template: its file in this folder.
    """
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


def plain(value: Any) -> str:
    """A setting or a measure as text: numbers shortened, text unchanged, other values as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.6g}"
    return json.dumps(value, ensure_ascii=False)
