"""A file of rows, line by line: the records of each row, or why the row is refused."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from ..errors import DpoError
from ..records import Curated, Preference, Prompt
from ..storage.jsonl import parse_line, read_lines
from ..storage.reading import path_text
from .foreign_files import check_is_jsonl
from .foreign_rows import count_unused
from .formats import own_columns

NO_ROWS = "has no rows"

Record = TypeVar("Record", Curated, Preference, Prompt)
Parse = Callable[[dict[str, Any], str], Sequence[Record]]
"""One row and its place, "file:line", to its records: several pairs where the row ranks several answers."""


class Line(NamedTuple, Generic[Record]):
    """One line: its number from 1, the places of its first byte and of the byte after its last.

    `row` is the object of the line; a refused row has an `error` and no records.
    """

    number: int
    place: int
    end: int
    row: dict[str, Any]
    records: Sequence[Record]
    error: DpoError | None = None


class RowReader(Generic[Record]):
    """The lines of a file that are not blank, in order; after a refused line, reading continues.

    Iterating counts `rows`, and in `unused` the unused columns with the number of good rows that have each.
    """

    def __init__(self, path: Path | str, parse: Parse[Record]):
        """
        Raises:
            DpoError: the file has another format, or cannot be read.
        """
        check_is_jsonl(path)
        self.path, self._name, self._parse = Path(path), path_text(path), parse
        self.rows, self.unused = 0, Counter()

    def __iter__(self) -> Iterator[Line[Record]]:
        """
        Raises:
            DpoError: a line is too long for a row, or the file has no rows.
        """
        self.rows, self.unused = 0, Counter()
        for number, place, text in read_lines(self.path):
            self.rows += 1
            yield self._line(number, place, text)
        if not self.rows:
            raise DpoError(NO_ROWS, where=self.path, hint="see data/README.md for what a row looks like")

    def _line(self, number: int, place: int, text: bytes) -> Line[Record]:
        where, end = f"{self._name}:{number}", place + len(text)
        try:
            row = parse_line(text, where)
            records = self._parse(row, where)
        except DpoError as error:
            return Line(number, place, end, {}, (), error)
        count_unused(row, self.unused, own_columns(row))
        return Line(number, place, end, row, records)

    def good(self) -> Iterator[Line[Record]]:
        """The lines; the error of the first refused row is raised."""
        for line in self:
            if line.error:
                raise line.error
            yield line
