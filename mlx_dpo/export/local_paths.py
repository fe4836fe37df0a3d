"""Paths of this machine in the files of a model: they are replaced, or refused, before the files leave it."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ..errors import DpoError, first_ten
from ..storage.reading import opened

_BASE_KEYS = ("model", "base_model_name_or_path", "_name_or_path", "name_or_path")
"""Keys whose value is the name or the folder of the base model; "models/tiny" may be either."""
_FILE_KEYS = ("tokenizer_file", "vocab_file", "merges_file", "special_tokens_map_file", "chat_template_path")
"""Keys that tokenizers are saved with and that are not read again."""
_HOMES = ("~/", "/Users/", "/home/")
_HOME = re.compile(rb"(?<![\w.-])/(?:Users|home|Volumes)/[^/\s\"'\\]+|[A-Za-z]:\\{1,2}Users\\")
"""A home folder or another disk of a Mac, Linux or Windows; not as a part of an address on the web."""
_PUBLIC = (
    *("tokenizer.json", "vocab*", "merges.txt", "added_tokens.json", "tokenizer.model", "*tiktoken*"),
    *("LICENSE*", "NOTICE*", "USE_POLICY*", "README.md", "*.gguf"),
)
"""Files in which such words are no paths: vocabularies, licences, and prompts on the card."""
_HEAD = 2**24
"""Bytes of a GGUF file that are searched: its metadata come first."""


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


def own_folders(*paths: Path | str) -> list[str]:
    """The full names of these folders, with and without links; not of a folder right below the root."""
    named = {name for path in paths for name in (os.path.abspath(path), os.path.realpath(path))}
    return sorted(name for name in named if name.count(os.sep) > 1)


def check_no_paths(name: str, content: Path | bytes, own: Sequence[str]) -> None:
    """Check that a file that leaves the machine names neither its folders nor a home folder.

    Args:
        name: of the file; `content`: the file itself, or its content. Of weights, the metadata are searched.
        own: full names of folders of this machine.

    Raises:
        DpoError: it does.
    """
    data = content if isinstance(content, bytes) else _head(content)
    written = {form.encode() for path in own for form in (path, json.dumps(path)[1:-1])}
    found = next((path for path in written if path in data), None)
    if found is None and not any(fnmatchcase(name, pattern) for pattern in _PUBLIC):
        match = _HOME.search(data)
        found = match[0] if match else None
    if found is not None:
        raise DpoError(
            f"names a path of this machine, which must not leave it: {found.decode(errors='replace')}",
            where=content if isinstance(content, Path) else name,
            hint="remove the path from the file if its programs work without it",
            code="local-path",
        )


def _head(file: Path) -> bytes:
    """The text of a file; of weights, the part before the tensors."""
    with opened(file) as held:
        if file.suffix == ".safetensors":
            return held.read(min(int.from_bytes(held.read(8), "little"), _HEAD))
        return held.read(_HEAD if file.suffix == ".gguf" else -1)
