"""Rows of a table as text: CSV or TSV, row by row, with the line on which each row begins."""

import csv
import itertools
from collections.abc import Iterator
from typing import BinaryIO

from ..errors import DpoError, quoted
from ..storage.jsonl import ROW_BYTES, read_row
from .format_registry import cell_value
from .json_rows import NumberedRows, row_text

csv.field_size_limit(ROW_BYTES)

_HINT = "a cell with a separator, a quote or a line break stands between quotes, and a quote in it is doubled"


def table_rows(file: BinaryIO, name: str, delimiter: str) -> NumberedRows:
    """The rows of a table whose first line names the columns. Cells are text, except for lists and scores.

    Raises:
        DpoError: not UTF-8, or a row has more or fewer cells than there are columns.
    """
    reader = csv.reader(_lines(file, name), delimiter=delimiter, strict=True)
    names: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            where = f"{name}:{line}"
            raise DpoError(
                f"is not a row of the table: {error}", where=where, hint=_HINT, code="bad-cells"
            ) from None
        if cells is None:
            return
        if not cells:
            continue
        if not names:
            names = _checked(cells, f"{name}:{line}")
        elif len(cells) != len(names):
            what = f"has {len(cells)} cells, but the first line names {len(names)} columns"
            raise DpoError(what, where=f"{name}:{line}", hint=_HINT, code="bad-cells")
        else:
            row = {key: cell_value(key, cell) for key, cell in zip(names, cells, strict=True) if key}
            yield line, row_text(row)


def _lines(file: BinaryIO, name: str) -> Iterator[str]:
    for number in itertools.count(1):
        where = f"{name}:{number}"
        line = read_row(file, where)
        if not line:
            return
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise DpoError(
                "is not UTF-8 text", where=where, hint="save the file as UTF-8", code="not-utf-8"
            ) from None


def _checked(names: list[str], where: str) -> list[str]:
    """The names of the columns; an index without a name, as pandas writes it, has the name ""."""
    names = [name.strip() for name in names]
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        what = f"the column {quoted(twice[0])} is named twice"
        raise DpoError(what, where=where, hint="rename one of the two columns", code="written-twice")
    return names
