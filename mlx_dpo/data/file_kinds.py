"""Kinds of files of rows, recognised by their content: JSONL is read in place, others are converted."""

import bz2
import gzip
import json
import lzma
import os
import re
import shlex
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ..errors import DpoError, first_line
from ..storage.jsonl import read_row
from ..storage.reading import opened, path_text
from .columnar_rows import arrow_rows, parquet_rows
from .json_rows import NumberedRows, json_rows, name_of_list, rows_inside
from .known_formats import format_of
from .promptfoo_rows import grouped, is_result
from .table_rows import table_rows

_HEAD = 2**16
"""Bytes at the start of a file that are examined."""

_ROWS = "rows must be JSONL (one JSON object per line, in UTF-8), JSON, CSV, TSV or Parquet"
_COMPRESSED: dict[bytes, tuple[str, Callable[[BinaryIO], Any]]] = {
    b"\x1f\x8b": ("gzip", lambda file: gzip.GzipFile(fileobj=file)),
    b"BZh": ("bzip2", bz2.BZ2File),
    b"\xfd7zXZ": ("xz", lzma.LZMAFile),
}
"""Compressed files that are read, by their first bytes: the name, and what opens them."""
_REFUSED = {
    b"\x28\xb5\x2f\xfd": ("is compressed (zstd)", "unpack it: zstd -dc PATH > OUT"),
    b"PK\x03\x04": ("is a zip archive or a spreadsheet", f"unpack it, or export it as CSV; {_ROWS}"),
    b"SQLite format 3": ("is an SQLite database", f"export its rows; {_ROWS}"),
    b"%PDF": ("is a PDF", _ROWS),
    b"\xff\xfe": ("is UTF-16 text", "turn it into UTF-8: iconv -f UTF-16 -t UTF-8 PATH > OUT"),
    b"\xfe\xff": ("is UTF-16 text", "turn it into UTF-8: iconv -f UTF-16 -t UTF-8 PATH > OUT"),
    b"version https://git-lfs.github.com/spec/": (
        "is a Git LFS pointer, not the file itself",
        "fetch the file: git lfs pull",
    ),
}
"""What is no file of rows, by its first bytes, with the remedy."""
_COLUMNAR = {
    b"PAR1": ("Parquet", parquet_rows),
    b"ARROW1": ("Arrow", arrow_rows),
    b"\xff\xff\xff\xff": ("Arrow", arrow_rows),
}
_TABLES = {",": "CSV", ";": "CSV with semicolons", "\t": "TSV"}
_COLUMN = re.compile(r"[\w ./()&#:-]*")
_OWN = {"prompt", "question", "messages", "chosen", "conversations", "instruction"}

Read = Callable[[BinaryIO, str], NumberedRows]
"""Reads the rows of an open file with this name for messages."""


class FileKind(NamedTuple):
    """`name`: what the file is. `rows`: gives its rows as `NumberedRows`, each with the bytes that are read.

    `plain`: JSONL that can be read in place.
    """

    name: str
    rows: Callable[[Path, str], Iterator[tuple[int, bytes, int]]]
    plain: bool = False


def kind_of_file(path: Path) -> FileKind:
    """What a file is, by its first bytes. Single rows may still be wrong.

    Raises:
        DpoError: the file is not one of rows; the hint says what to do.
    """
    name = path_text(path)
    with opened(path) as file:
        head = file.read(_HEAD)
    for start, columnar in _COLUMNAR.items():
        if head.startswith(start):
            return FileKind(*columnar)
    compressed = next((one for start, one in _COMPRESSED.items() if head.startswith(start)), None)
    if compressed:
        with _text(path, name) as file:
            head = file.read(_HEAD)
    _check(head, path)
    described, read = _kind_of_text(path, name, head.decode("utf-8-sig", errors="replace").lstrip())

    def rows(path: Path, name: str) -> Iterator[tuple[int, bytes, int]]:
        with opened(path) as raw, _unpacked(raw, name) as file:
            for number, text in read(file, name):
                yield number, text, raw.tell()

    described = f"{described} ({compressed[0]})" if compressed else described
    return FileKind(described, rows, plain=read is _lines and not compressed)


@contextmanager
def _text(path: Path, name: str) -> Iterator[BinaryIO]:
    """The file, open for reading bytes, unpacked if it is compressed.

    Raises:
        DpoError: it cannot be read, or its compressed content is damaged.
    """
    with opened(path) as raw, _unpacked(raw, name) as file:
        yield file


@contextmanager
def _unpacked(raw: BinaryIO, name: str) -> Iterator[BinaryIO]:
    start = raw.read(8)
    raw.seek(0)
    unpack = next((unpack for sign, (_, unpack) in _COMPRESSED.items() if start.startswith(sign)), None)
    try:
        with unpack(raw) if unpack else nullcontext(raw) as file:
            yield file
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        if getattr(error, "errno", None):  # the disk's error, not one of the content
            raise
        what = f"is damaged or cut off: {first_line(error)}"
        raise DpoError(what, where=name, hint="get the file again") from None


def _check(head: bytes, path: Path) -> None:
    """Check that these first bytes may be those of a text with rows."""
    for start, (what, remedy) in _REFUSED.items():
        if head.startswith(start):
            raise _refused(path, what, remedy)
    for start, (what, _) in _COLUMNAR.items():
        if head.startswith(start):
            raise _refused(path, f"is a compressed {what} file", "unpack it first")
    if b"\0" in head[:64]:
        raise _refused(path, "is not text", _ROWS)
    if b"\n" not in head and re.search(rb"\r\s*[^\s]", head) and head[:1] not in (b"[", b"{"):
        what = "has the line ends of old Macs (CR)"
        raise _refused(path, what, "turn them into line feeds: tr '\\r' '\\n' < PATH > OUT")
    begins = head.decode("utf-8-sig", errors="replace").lstrip()[:9].lower()
    if begins.startswith(("<!doctype", "<html", "<?xml")):
        raise _refused(path, "is a web page", "download the file itself: this page only displays it")


def _refused(path: Path, what: str, remedy: str) -> DpoError:
    out = path.with_name(f"{path.stem.removesuffix('.jsonl')}-rows.jsonl")
    if not os.access(out.parent, os.W_OK):
        out = Path(out.name)
    names = {"PATH": _argument(path), "OUT": _argument(out)}
    return DpoError(what, where=path, hint=re.sub(r"\b(PATH|OUT)\b", lambda match: names[match[0]], remedy))


def _argument(path: Path) -> str:
    """A path quoted for a shell; a path that begins with a dash would be read as an option."""
    return shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))


def _kind_of_text(path: Path, name: str, text: str) -> tuple[str, Read]:
    """What a text is and what reads its rows; `text` is its start."""
    if text.startswith("["):
        listed = text[1:].lstrip()[:1] == "{"  # otherwise a row is a list by mistake
        return ("a JSON list", json_rows) if listed else ("JSONL", _lines)
    if text.startswith("{"):
        first = _first_object(path, name)
        if is_result(first):
            return "a promptfoo evaluation", lambda file, name: grouped(_lines(file, name), name)
        if first is not None and (_OWN & first.keys() or format_of(first)):
            return "JSONL", _lines
        with _text(path, name) as file:
            inside = name_of_list(file, name)
        if inside:
            return _kind_inside(path, name, inside)
        return ("JSON objects", json_rows) if first is None and _spans(text) else ("JSONL", _lines)
    sign = next((sign for sign in _TABLES if _is_table(text, sign)), _sign_of(path))
    return (_TABLES[sign], partial(table_rows, delimiter=sign)) if sign else ("JSONL", _lines)


def _sign_of(path: Path) -> str:
    """The separator by the name of a file: without it, a table with a single column is not recognised."""
    name = re.sub(r"\.(gz|bz2|xz)$", "", path.name.lower())
    return {".csv": ",", ".tsv": "\t"}.get(Path(name).suffix, "")


def _first_object(path: Path, name: str) -> dict[str, Any] | None:
    """The object on the first line; None if that line is not a complete one."""
    with _text(path, name) as file, suppress(DpoError, ValueError, RecursionError):
        _, line = next(_lines(file, name))
        first = json.loads(line.decode("utf-8-sig"))
        return first if isinstance(first, dict) else None
    return None


def _kind_inside(path: Path, name: str, inside: str) -> tuple[str, Read]:
    with _text(path, name) as file, suppress(ValueError, RecursionError):
        _, first = next(rows_inside(file, name))
        if is_result(json.loads(first)):
            return "a promptfoo evaluation", lambda file, name: grouped(rows_inside(file, name), name)
    return f"the list {inside!r} of a JSON object", rows_inside


def _spans(text: str) -> bool:
    """Whether the first object is complete but spans several lines."""
    if text.partition("\n")[0].strip() == "{":
        return True
    with suppress(ValueError, RecursionError):
        _, end = json.JSONDecoder().raw_decode(text)
        return "\n" in text[:end]
    return False


def _is_table(text: str, sign: str) -> bool:
    """Whether the text begins with a line of names, separated by this sign.

    A single line, or a single name, may be damaged JSONL, unless it names a column of ours.
    """
    first, _, more = text.partition("\n")
    names = [name.strip(' "\r') for name in first.split(sign)]
    if not _OWN.isdisjoint(names):
        return True
    return bool(more) and len(names) > 1 and any(names) and all(map(_COLUMN.fullmatch, names))


def _lines(file: BinaryIO, name: str) -> NumberedRows:
    """The lines of JSONL that are not blank."""
    number = 0
    while line := read_row(file, f"{name}:{number + 1}"):
        number += 1
        if line.strip():
            yield number, line.rstrip(b"\r\n")
