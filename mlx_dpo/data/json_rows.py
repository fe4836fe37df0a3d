"""Rows of JSON that is not JSONL, as a stream: a list, a list in an object, objects over several lines."""

import codecs
import itertools
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from ..errors import DpoError
from ..storage.jsonl import ROW_BYTES

NumberedRows = Iterator[tuple[int, bytes]]
"""Rows as lines of JSON without line ends, each with its number in the user's file."""

_BLOCK = 2**18
_SPACE, _COMMA = re.compile(r"[ \t\r\n]*"), re.compile(r"[ \t\r\n,]*")
_LISTS = {"data", "rows", "train", "examples", "items", "records", "samples", "instances", "results"}
"""Names under which an object holds a list of rows."""
_OBJECTS = {"results"}
"""Names of objects that are searched too, as in an evaluation of promptfoo."""
_OF_ROWS = {"prompt", "question", "messages", "chosen", "conversations", "instruction"}
"""Names that only rows have; an object with one of them is a row."""
_HINT = "correct the JSON there, or write one object per line (JSONL)"


class _Window:
    """A part of a text that is read from a stream: `place` is the next character, `line` its line from 1."""

    def __init__(self, file: BinaryIO, name: str):
        self.text, self.place, self.line, self.ended = "", 0, 1, False
        self._file, self._name = file, name
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()

    def _more(self) -> bool:
        """Read a block; False at the end of the stream."""
        if self.ended:
            return False
        block = self._file.read(_BLOCK)
        self.ended = not block
        try:
            more = self._decoder.decode(block, final=self.ended)
        except UnicodeDecodeError as error:
            before = error.object[: error.start].count(b"\n")
            line = self.line + self.text.count("\n", self.place) + before
            where = f"{self._name}:{line}"
            raise DpoError(
                "is not UTF-8 text", where=where, hint="save the file as UTF-8", code="not-utf-8"
            ) from None
        self.text, self.place = self.text[self.place :] + more, 0
        return not self.ended

    def _moved(self, place: int) -> str:
        """Move to a later place; the text between."""
        passed = self.text[self.place : place]
        self.line += passed.count("\n")
        self.place = place
        return passed

    def sign(self, skipped: re.Pattern[str] = _SPACE) -> str:
        """The next character after white space, or after what else is to be skipped; "" at the end."""
        while True:
            self._moved(skipped.match(self.text, self.place).end())
            if self.place < len(self.text) or not self._more():
                return self.text[self.place : self.place + 1]

    def skip(self) -> None:
        """Move behind the next character."""
        self._moved(self.place + 1)

    def value(self) -> tuple[Any, str]:
        """The next JSON value, and its text."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.place)
                if end < len(self.text) or not self._more():
                    return value, self._moved(end)
            except (ValueError, RecursionError) as error:
                refusal = self._not_json(error)  # before more text moves the place of the error
                if len(self.text) - self.place > ROW_BYTES or not self._more():
                    raise refusal from None

    def _not_json(self, error: Exception) -> DpoError:
        line, what = self.line, "a number is too long, or lists are nested too deeply"
        if isinstance(error, json.JSONDecodeError):
            line, what = line + self.text.count("\n", self.place, error.pos), error.msg
        where = f"{self._name}:{line}"
        return DpoError(f"not JSON: {what}", where=where, hint=_HINT, code="not-json")


_DECODER = json.JSONDecoder()


def row_text(row: Any, other: Callable[[Any], Any] | None = None) -> bytes:
    """A row as a line of JSON. Half of a character stays an escape, which the reader of the rows refuses.

    Args:
        other: turns a value that JSON cannot have into one that it can have.
    """
    try:
        return json.dumps(row, ensure_ascii=False, default=other).encode()
    except UnicodeEncodeError:
        return json.dumps(row, default=other).encode()


def json_rows(file: BinaryIO, name: str) -> NumberedRows:
    """The items of a JSON list, or of several lists one after the other, or the objects of a text of objects.

    Raises:
        DpoError: not JSON, or a list is not complete.
    """
    yield from _numbered(_all_items(_Window(file, name), name))


def _all_items(window: _Window, name: str) -> NumberedRows:
    if window.sign() != "[":
        yield from _items(window, name, "")
    while window.sign(_COMMA) == "[":
        window.skip()
        yield from _items(window, name, "]")
        window.skip()
    if window.sign():
        what = "has more text after its list of rows"
        raise DpoError(what, where=f"{name}:{window.line}", hint=_HINT, code="not-json")


def rows_inside(file: BinaryIO, name: str) -> NumberedRows:
    """The items of the list of rows that an object holds.

    Raises:
        DpoError: as `json_rows`, or the object has no such list.
    """
    window = _Window(file, name)
    if not _entered(window):
        raise DpoError("has no list of rows", where=name, hint=_HINT, code="not-json")
    yield from _numbered(_items(window, name, "]"))


def name_of_list(file: BinaryIO, name: str) -> str:
    """The name of the list of rows that an object in the file holds; "" if it holds none, or is a row."""
    try:
        return _entered(_Window(file, name))
    except DpoError:
        return ""


def _entered(window: _Window) -> str:
    """Move to the first item of the list of rows in an object; the name of the list, "" if there is none."""
    if window.sign() != "{":
        return ""
    window.skip()
    while window.sign(_COMMA) == '"':
        key, _ = window.value()
        if key in _OF_ROWS or window.sign() != ":":
            return ""
        window.skip()
        sign = window.sign()
        if sign == "{" and key in _OBJECTS:
            return _entered(window)
        if sign == "[" and key in _LISTS:
            window.skip()
            return key if window.sign() == "{" else ""
        window.value()
    return ""


def _numbered(items: NumberedRows) -> NumberedRows:
    """The items with the lines on which they begin; counted from 1 if the first two are on the same line."""
    first = list(itertools.islice(items, 2))
    by_line, last = len({line for line, _ in first}) == len(first), 0
    for line, text in itertools.chain(first, items):
        last = max(line if by_line else 0, last + 1)
        yield last, text


def _items(window: _Window, name: str, end: str) -> NumberedRows:
    while (sign := window.sign(_COMMA)) != end:
        line = window.line
        if not sign:
            what = "ends before its list of rows does"
            raise DpoError(what, where=f"{name}:{line}", hint="get the whole file again", code="not-json")
        _, text = window.value()
        yield line, re.sub(r"[\r\n]+", " ", text).encode()
