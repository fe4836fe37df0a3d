"""JSONL: read with file:line, write whole."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .errors import DpoError
from .files import write_text


def read_jsonl(path: Path | str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("file:line", row) for every line that is not blank.

    Raises:
        DpoError: the file is missing or unreadable, or a line is not a JSON object.
    """
    path = Path(path)
    if path.is_dir():
        raise DpoError("is a folder, not a file", where=path, hint="name the .jsonl file inside it")
    number = 0
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}:{number}", _parse(line, f"{path}:{number}")
    except FileNotFoundError:
        raise DpoError("no such file", where=path, hint="check the path, relative to this folder") from None
    except UnicodeDecodeError:
        raise DpoError(
            "is not UTF-8 text", where=f"{path}:{number + 1}", hint="save the file as UTF-8"
        ) from None
    except OSError as error:
        raise DpoError(
            f"cannot be read: {error.strerror}", where=path, hint="check its permissions"
        ) from None


def _parse(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DpoError(
            f"not JSON: {error.msg} at column {error.colno}",
            where=where,
            hint='each line is one whole object, such as {"prompt": "...", "answer": "..."}',
        ) from None
    if not isinstance(row, dict):
        raise DpoError(
            f"is a JSON {_json_type(row)}, not an object",
            where=where,
            hint='each line is one whole object, such as {"prompt": "...", "answer": "..."}',
        )
    return row


def _json_type(value: Any) -> str:
    if value is None:
        return "null"
    return {list: "array", str: "string", bool: "boolean"}.get(type(value), "number")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows so that the file is either the old one or the whole new one."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
