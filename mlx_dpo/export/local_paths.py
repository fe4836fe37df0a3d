"""Paths of this machine in the JSON files of a model: they are replaced before the files leave it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import DpoError, first_ten

_BASE_KEYS = ("model", "base_model_name_or_path", "_name_or_path", "name_or_path")
"""Keys whose value is the name or the folder of the base model; "models/tiny" may be either."""
_FILE_KEYS = ("tokenizer_file", "vocab_file", "merges_file", "special_tokens_map_file", "chat_template_path")
"""Keys that tokenizers are saved with and that are not read again."""
_HOMES = ("~/", "/Users/", "/home/")


def without_local_paths(content: dict[str, Any], base_id: str, where: Path) -> dict[str, Any]:
    """The content of a JSON file with the base model's name on the Hub in place of its folder.

    Raises:
        DpoError: another value is a path of this machine.
    """
    kept = {key: value for key, value in content.items() if not (key in _FILE_KEYS and _is_path(value))}
    named = {key: base_id for key in _BASE_KEYS if isinstance(kept.get(key), str)}
    if left := list(_local_values(kept | named)):
        raise DpoError(
            f"names paths of this machine, which must not leave it: {first_ten(left)}",
            where=where,
            hint="remove these values from the file if its programs work without them",
            code="local-path",
        )
    return kept | named


def _is_path(value: Any) -> bool:
    """Whether a value that is a name or a path is a path: of this machine, or of the one before it."""
    return isinstance(value, str) and value.startswith(("/", "./", "../", "~"))


def is_local(value: Any) -> bool:
    """Whether a value is a path of a machine: in somebody's home folder, or one that exists here."""
    if not isinstance(value, str) or "\0" in value:
        return False
    if value.startswith((*_HOMES, f"{Path.home()}/")):
        return True
    return value.startswith("/") and value.count("/") > 1 and os.path.lexists(value)


def _local_values(value: Any, place: str = "") -> Iterator[str]:
    """The places of such texts in plain values."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _local_values(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list):
        for inner in value:
            yield from _local_values(inner, place)
    elif is_local(value):
        yield place
