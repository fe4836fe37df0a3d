"""Files of rows that are not JSONL: recognised by their content, with the command that converts them."""

import json
import os
import re
import shlex
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ..errors import DpoError
from ..storage.reading import is_there, opened

_HEAD = 2**16
"""Bytes at the start of a file that are examined."""


class _Foreign(NamedTuple):
    """What a file is, and the remedy: a command with PATH and OUT, or a sentence."""

    what: str
    remedy: str


def _python(code: str) -> str:
    return f"python3 -c '{code}' PATH > OUT"


_PRINTED = "[print(json.dumps(row)) for row in"
_PANDAS = _python('import pandas, sys; print(pandas.KIND(sys.argv[1]).to_json(orient="records", lines=True))')
_TEXT = 'open(sys.argv[1], encoding="utf-8-sig")'
_LIST = _python(f"import json, sys; {_PRINTED} json.load({_TEXT})]")
_LISTED = _python(f'import json, sys; {_PRINTED} json.load({_TEXT})["KEY"]]')
_JOINED = rf'"[" + re.sub(r"}}[^\S\n]*\n\s*{{", "}},{{", {_TEXT}.read()) + "]"'
_OBJECTS = _python(f"import json, re, sys; {_PRINTED} json.loads({_JOINED})]")
_OPENED = 'open(sys.argv[1], encoding="utf-8-sig", newline="")'
_TABLE = _python(f'import csv, json, sys; {_PRINTED} csv.DictReader({_OPENED}, delimiter="SIGN")]')
_SIGNS = {",": "is CSV", ";": "is CSV with semicolons", "\t": "is a tab-separated table (TSV)"}
_ROWS_UNDER = re.compile(r'\{\s*"(data|rows|train|examples|items|records|samples|instances)"\s*:\s*\[\s*\{')
_OWN = {"prompt", "question", "messages", "chosen", "conversations", "instruction"}
_COLUMN = re.compile(r"[\w .-]*")
_UTF_16 = _Foreign("is UTF-16 text", "iconv -f UTF-16 -t UTF-8 PATH > OUT")
_ROWS = "rows must be JSONL: one JSON object per line, in UTF-8"
_BINARY = {
    b"\x1f\x8b": _Foreign("is compressed (gzip)", "gunzip -c PATH > OUT"),
    b"BZh": _Foreign("is compressed (bzip2)", "bunzip2 -c PATH > OUT"),
    b"\xfd7zXZ": _Foreign("is compressed (xz)", "xz -dc PATH > OUT"),
    b"\x28\xb5\x2f\xfd": _Foreign("is compressed (zstd)", "zstd -dc PATH > OUT"),
    b"PK\x03\x04": _Foreign("is a zip archive or a spreadsheet", f"unpack it, or export it as CSV; {_ROWS}"),
    b"PAR1": _Foreign("is a Parquet file", _PANDAS.replace("KIND", "read_parquet")),
    b"ARROW1": _Foreign("is an Arrow file", _PANDAS.replace("KIND", "read_feather")),
    b"SQLite format 3": _Foreign("is an SQLite database", f"export its rows; {_ROWS}"),
    b"%PDF": _Foreign("is a PDF", _ROWS),
    b"\xff\xfe": _UTF_16,
    b"\xfe\xff": _UTF_16,
}
_POINTER = b"version https://git-lfs.github.com/spec/"


def check_is_jsonl(path: Path | str) -> None:
    """Check the first bytes of a file of rows: it may be JSONL. Single rows may still be wrong.

    Raises:
        DpoError: the file has another format (the hint gives the command that converts it), or cannot be
            read.
    """
    path = Path(path)
    if not is_there(path):
        _check_no_file(path)
    with opened(path) as file:
        head = file.read(_HEAD)
    if foreign := _foreign(head):
        out = path.with_name(f"{path.stem.removesuffix('.jsonl')}-rows.jsonl")
        if not os.access(out.parent, os.W_OK):
            out = Path(out.name)
        names = {"PATH": _argument(path), "OUT": _argument(out)}
        command = re.sub(r"\b(PATH|OUT)\b", lambda match: names[match[0]], foreign.remedy)
        hint = f"turn it into JSONL: {command}" if command != foreign.remedy else command
        raise DpoError(foreign.what, where=path, hint=hint)


def _argument(path: Path) -> str:
    """A path quoted for a shell; a path that begins with a dash would be read as an option."""
    return shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))


def _check_no_file(path: Path) -> None:
    """Check that a path without a file could be the path of one.

    Raises:
        DpoError: the path is something else; the hint says how to get a file from it.
    """
    name = str(path)
    if address := re.match(r"(\w\w+:)/+", name):
        hint = "mlx-dpo reads local files only: download the file and give its path"
        where = f"{address[1]}//{name[address.end() :]}"
        raise DpoError("is a web address, not a file", where=where, hint=hint)
    if re.search(r"[*?]|\[.*\]", name):
        hint = "join the files into one with cat, and give the path of that file"
        raise DpoError("is a pattern for several files, not the path of one file", where=name, hint=hint)
    if re.fullmatch(r"[\w.-]+/[\w-]+", name):
        hint = (
            "check the path; for a dataset on the Hub, download its JSONL file and give the path of that file"
        )
        raise DpoError("no such file", where=name, hint=hint)


def _foreign(head: bytes) -> _Foreign | None:
    for start, foreign in _BINARY.items():
        if head.startswith(start):
            return foreign
    if head.startswith(_POINTER):
        return _Foreign("is a Git LFS pointer, not the file itself", "fetch the file: git lfs pull")
    if b"\0" in head[:64]:
        return _Foreign("is not text", _ROWS)
    text = head.decode("utf-8-sig", errors="replace").lstrip()
    if text[:9].lower().startswith(("<!doctype", "<html", "<?xml")):
        return _Foreign("is a web page", "download the file itself: this page only displays it")
    if text.startswith("["):
        return _Foreign("is a single JSON list, not JSONL", _LIST) if _is_list(text) else None
    if text.startswith("{"):
        if key := _rows_under(text):
            listed = _LISTED.replace("KEY", key)
            return _Foreign(f"is one JSON object with its rows in {key!r}, not JSONL", listed)
        return _Foreign("has objects that span several lines, not JSONL", _OBJECTS) if _spans(text) else None
    return _table(text)


def _is_list(text: str) -> bool:
    """Whether the text is a list of objects, rather than a row that is a list by mistake."""
    return text[1:].lstrip()[:1] == "{"


def _rows_under(text: str) -> str | None:
    """The key that holds a list of rows, in an object that is not a row itself."""
    found = _ROWS_UNDER.match(text)
    with suppress(ValueError, RecursionError):
        if found and _OWN & json.loads(text.splitlines()[0]).keys():
            return None
    return found and found[1]


def _spans(text: str) -> bool:
    """Whether the first object is complete but spans several lines."""
    first = text.splitlines()[0].strip()
    if first == "{":
        return True
    try:
        json.loads(first)
    except ValueError:
        with suppress(ValueError, RecursionError):
            _, end = json.JSONDecoder().raw_decode(text)
            return "\n" in text[:end]
    except RecursionError:
        pass
    return False


def _table(text: str) -> _Foreign | None:
    """A header line with separators and a line of values after it."""
    lines = text.splitlines()[:2]
    for sign, what in _SIGNS.items():
        names = [name.strip(' "') for name in lines[0].split(sign)] if len(lines) > 1 else []
        if len(names) > 1 and any(names) and all(map(_COLUMN.fullmatch, names)):
            written = sign.encode("unicode_escape").decode()
            return _Foreign(f"{what}, not JSONL", _TABLE.replace("SIGN", written))
    return None
