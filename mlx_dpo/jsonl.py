"""JSONL: read with file:line, write whole, append."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import DpoError
from .files import unwritable, write_text


def read_jsonl(path: Path | str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("file:line", row) for every line that is not blank.

    Raises:
        DpoError: the file is missing or unreadable, or a line is not a JSON object.
    """
    for number, _, line in read_lines(path):
        where = f"{Path(path)}:{number}"
        yield where, parse_line(line, where)


def read_lines(path: Path | str) -> Iterator[tuple[int, int, bytes]]:
    """Yield (line number from 1, its first byte's place in the file, its bytes) of lines that are not blank.

    Raises:
        DpoError: the file is missing or unreadable.
    """
    with readable(path), open(path, "rb") as file:
        place = 0
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, place, line
            place += len(line)


@contextmanager
def readable(path: Path | str) -> Iterator[None]:
    """Say of `path` why it cannot be read.

    Raises:
        DpoError: in place of an OSError.
    """
    path = Path(path)
    try:
        yield
    except IsADirectoryError:
        raise DpoError("is a folder, not a file", where=path, hint="name the .jsonl file inside it") from None
    except FileNotFoundError:
        raise DpoError("no such file", where=path, hint="check the path, relative to this folder") from None
    except OSError as error:
        raise DpoError(
            f"cannot be read: {error.strerror}", where=path, hint="check its permissions"
        ) from None


def parse_line(line: bytes, where: str) -> dict[str, Any]:
    """One line as a JSON object.

    Raises:
        DpoError: it is not one.
    """
    try:
        text = line.decode("utf-8-sig").rstrip()
    except UnicodeDecodeError:
        raise DpoError("is not UTF-8 text", where=where, hint="save the file as UTF-8") from None
    try:
        row = json.loads(text, object_pairs_hook=_once)
    except _TwiceError as error:
        raise DpoError(
            f"{str(error)[:60]!r} is written twice", where=where, hint="keep one of the two"
        ) from None
    except (ValueError, RecursionError) as error:
        known = isinstance(error, json.JSONDecodeError)
        what = f"{error.msg} at column {error.colno}" if known else "a number too long or lists too deep"
        raise DpoError(
            f"not JSON: {what}",
            where=where,
            hint='each line is one whole object, such as {"prompt": "...", "answer": "..."}',
        ) from None
    if not isinstance(row, dict):
        raise DpoError(
            f"is a JSON {_json_type(row)}, not an object",
            where=where,
            hint='each line is one whole object, such as {"prompt": "...", "answer": "..."}',
        )
    if "\\ud" in text.lower():
        _check_characters(row, where)
    return row


class _TwiceError(Exception):
    pass


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names differ; json would take the last of two."""
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(next(name for name in names if names.count(name) > 1))
    return row


def _check_characters(row: dict[str, Any], where: str) -> None:
    """Refuse half of a character, which JSON can spell as \\ud83d but no tokenizer or file can take."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise DpoError(
            f"holds half of a character: {error.object[error.start]!r}",
            where=where,
            hint="an emoji was cut in two where this file was made; write it whole or remove it",
        ) from None


def _json_type(value: Any) -> str:
    if value is None:
        return "null"
    return {list: "array", str: "string", bool: "boolean"}.get(type(value), "number")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows so that the file is either the old one or the whole new one."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def append_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Add rows to the end of a file, which is made where it is missing.

    Raises:
        DpoError: it cannot be written.
    """
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    except OSError as error:
        raise unwritable(path, error) from None
