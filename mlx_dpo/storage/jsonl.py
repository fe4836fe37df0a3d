"""JSONL: read with file:line, write completely, append."""

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import DpoError
from .files import unwritable, write_text
from .reading import opened, path_text

ROW_BYTES = 2**21
"""Longest line that is read: a prompt of 128,000 tokens and two answers, each character as a \\u escape.

A longer line is not a row but another kind of file, and would take minutes to parse and tokenise.
"""


def read_jsonl(path: Path | str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("file:line", row) for every line that is not blank.

    Raises:
        DpoError: the file is missing or unreadable, or a line is not a JSON object.
    """
    for number, _, line in read_lines(path):
        where = f"{path_text(path)}:{number}"
        yield where, parse_line(line, where)


def read_lines(path: Path | str, most: int = ROW_BYTES) -> Iterator[tuple[int, int, bytes]]:
    """Yield (line number from 1, place of its first byte in the file, its bytes) of lines that are not blank.

    Raises:
        DpoError: the file is missing or unreadable, or a line has more than `most` bytes.
    """
    name, place = path_text(path), 0
    with opened(path) as file:
        for number in itertools.count(1):
            line = read_row(file, f"{name}:{number}", most)
            if not line:
                return
            if line.strip():
                yield number, place, line
            place += len(line)


def read_row(file: BinaryIO, where: str, most: int = ROW_BYTES) -> bytes:
    """The next line of the file, with its line end; empty at the end of the file.

    Raises:
        DpoError: the line has more than `most` bytes; the rest of it is not read.
    """
    line = file.readline(most + 1)
    if len(line) > most:
        raise too_long(where, most)
    return line


def too_long(where: str, most: int = ROW_BYTES) -> DpoError:
    """What to raise for a row of more than `most` bytes."""
    return DpoError(
        f"the row is longer than {most // 2**20} MB",
        where=where,
        hint="remove it, or shorten its texts, which data.max_length would cut anyway",
        code="line-too-long",
    )


def parse_line(line: bytes, where: str) -> dict[str, Any]:
    """One line as a JSON object.

    Raises:
        DpoError: the line is not a JSON object.
    """
    try:
        text = line.decode("utf-8-sig").rstrip()
    except UnicodeDecodeError:
        raise DpoError(
            "is not UTF-8 text", where=where, hint="save the file as UTF-8", code="not-utf-8"
        ) from None
    try:
        row = json.loads(text, object_pairs_hook=once)
    except TwiceError as error:
        raise DpoError(
            f"{str(error)[:60]!r} is written twice",
            where=where,
            hint="keep one of the two",
            code="written-twice",
        ) from None
    except (ValueError, RecursionError) as error:
        known = isinstance(error, json.JSONDecodeError)
        what = (
            f"{error.msg} at column {error.colno}"
            if known
            else "a number is too long, or lists are nested too deeply"
        )
        raise DpoError(
            f"not JSON: {what}",
            where=where,
            hint='each line must be one complete object, such as {"prompt": "...", "answer": "..."}',
            code="not-json",
        ) from None
    if not isinstance(row, dict):
        raise DpoError(
            f"is a JSON {_json_type(row)}, not an object",
            where=where,
            hint='each line must be one complete object, such as {"prompt": "...", "answer": "..."}',
            code="not-an-object",
        )
    if "\\ud" in text.lower():
        _check_characters(row, where)
    return row


class TwiceError(Exception):
    """An object has this name twice."""


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object without duplicate names, of which json would keep the last.

    Raises:
        TwiceError: a name is used twice.
    """
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise TwiceError(next(name for name in names if names.count(name) > 1))
    return row


def _check_characters(row: dict[str, Any], where: str) -> None:
    """Refuse half of a character, which JSON can spell as \\ud83d but no tokenizer or file can store."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise DpoError(
            f"contains half of a character: {error.object[error.start]!r}",
            where=where,
            hint="an emoji was cut in two when this file was made; write the whole emoji, or remove it",
            code="half-character",
        ) from None


def _json_type(value: Any) -> str:
    if value is None:
        return "null"
    return {list: "array", str: "string", bool: "boolean"}.get(type(value), "number")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows so that the file is always either the old one or the complete new one."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def append_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Add rows to the end of a file; a missing file is made.

    Raises:
        DpoError: the file cannot be written.
    """
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    except OSError as error:
        raise unwritable(path, error) from None
