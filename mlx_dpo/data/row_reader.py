"""Rows line by line, wherever they come from: the records of each row, or why the row is refused."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Generic, NamedTuple, TypeVar

from ..errors import DpoError
from ..records import Curated, Preference, Prompt
from ..storage.jsonl import ROW_BYTES, parse_line, read_lines
from .known_formats import NoPairError, RowFormat
from .row_files import Rows
from .unusable_rows import LeftOut, count_unused

NO_ROWS = "has no rows"

Record = TypeVar("Record", Curated, Preference, Prompt)
Parse = Callable[[dict[str, Any], str, RowFormat | None], Sequence[Record]]
"""One row, its place "file:line" and its format to its records, of which there may be several."""


class Line(NamedTuple, Generic[Record]):
    """One line: its number from 1, "file:line" in the user's file, its first byte and the one after its last.

    `row` is the object of the line; a refused row has an `error` and no records, and a row that makes no pair
    only no records.
    """

    number: int
    where: str
    place: int
    end: int
    row: dict[str, Any]
    records: Sequence[Record]
    error: DpoError | None = None


class RowReader(Generic[Record]):
    """The lines of a JSONL file that are not blank, in order; after a refused line, reading continues.

    Iterating counts `rows`, in `unused` the unused columns with the number of good rows that have each, and
    in `left_out` the rows that make no pair.
    """

    def __init__(self, rows: Rows, parse: Parse[Record], longest: int = ROW_BYTES):
        """
        Args:
            longest: most bytes of a row.
        """
        self.source, self._parse, self._longest = rows, parse, longest
        self._restart()

    def _restart(self) -> None:
        self.rows, self.unused, self.left_out = 0, Counter(), LeftOut()

    def __iter__(self) -> Iterator[Line[Record]]:
        """
        Raises:
            DpoError: a line is too long for a row, or there are no rows.
        """
        self._restart()
        for number, place, text in read_lines(self.source.path, self._longest):
            self.rows += 1
            yield self._line(number, place, text)
        if not self.rows:
            raise DpoError(
                NO_ROWS, where=self.source.label, hint="see data/README.md for what a row looks like"
            )

    def _line(self, number: int, place: int, text: bytes) -> Line[Record]:
        where, end, form = self.source.where(number), place + len(text), self.source.part(number).form
        row: dict[str, Any] = {}
        records: Sequence[Record] = ()
        try:
            row = parse_line(text, where)
            records = records_of(row, number, self.source, self._parse)
        except NoPairError as reason:
            self.left_out.add(str(reason), number)
        except DpoError as error:
            return Line(number, where, place, end, {}, (), error)
        count_unused(row, self.unused, form)
        return Line(number, where, place, end, row, records)

    def good(self) -> Iterator[Line[Record]]:
        """The lines; the error of the first refused row is raised."""
        for line in self:
            if line.error:
                raise line.error
            yield line


def records_of(row: dict[str, Any], line: int, rows: Rows, parse: Parse[Record]) -> Sequence[Record]:
    """The records of the row on a line. Where there are several files, their ids begin with the file's name.

    Raises:
        DpoError, NoPairError: as `parse`.
    """
    part = rows.part(line)
    records = parse(row, rows.where(line), part.form)
    if len(rows.parts) == 1:
        return records
    return [replace(record, id=f"{part.name}:{record.id}") for record in records]
