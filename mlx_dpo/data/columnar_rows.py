"""Rows of Parquet and Arrow files, in batches, through pyarrow."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import DpoError, first_line, quoted
from .json_rows import row_text

RowsRead = Iterator[tuple[int, bytes, int]]
"""Rows as lines of JSON, each with its number from 1 and, roughly, the bytes of the file that are read."""

_BATCH = 256
"""Rows that are in memory at a time."""
_BUFFER = 2**20
"""Bytes of a column that are read at a time: a file may consist of one group of all rows."""


def parquet_rows(path: Path, name: str) -> RowsRead:
    """The rows of a Parquet file.

    Raises:
        DpoError: pyarrow is missing, or the file is damaged.
    """
    check_pyarrow(name)
    import pyarrow.parquet

    def batches() -> Iterator[tuple[Any, int]]:
        with pyarrow.parquet.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False) as file:
            size, count = path.stat().st_size, file.metadata.num_rows
            for number, batch in enumerate(file.iter_batches(_BATCH), 1):
                yield batch, min(size, size * number * _BATCH // max(1, count))

    return _rows(batches(), name)


def arrow_rows(path: Path, name: str) -> RowsRead:
    """The rows of an Arrow file (Feather) or stream (of `datasets`); errors as for `parquet_rows`."""
    check_pyarrow(name)
    import pyarrow.ipc

    def batches() -> Iterator[tuple[Any, int]]:
        with pyarrow.memory_map(str(path)) as file:
            if file.read(6) == b"ARROW1":
                whole = pyarrow.ipc.open_file(file)
                found = (whole.get_batch(i) for i in range(whole.num_record_batches))
            else:
                file.seek(0)
                found = pyarrow.ipc.open_stream(file)
            for batch in found:
                for start in range(0, batch.num_rows, _BATCH):
                    yield batch.slice(start, _BATCH), file.tell()

    return _rows(batches(), name)


def check_pyarrow(name: str) -> None:
    """Check that pyarrow is installed.

    Raises:
        DpoError: it is not; the hint installs it.
    """
    if find_spec("pyarrow") is None:
        what = "is read with pyarrow, which is not installed"
        raise DpoError(what, where=name, hint="pip install 'mlx-dpo[tables]'")


def _rows(batches: Iterator[tuple[Any, int]], name: str) -> RowsRead:
    import pyarrow

    number = 0
    try:
        for batch, done in batches:
            _check_names(batch.schema.names, name)
            for row in _without_dates(batch).to_pylist():
                number += 1
                yield number, row_text(row, _as_text), done
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _unreadable(
            f"is damaged: {first_line(error)[:200]}", name, number, "get the file again"
        ) from None
    except (ValueError, OverflowError) as error:
        hint = "write the file without the columns that are not needed"
        raise _unreadable(f"cannot be read: {first_line(error)[:200]}", name, number, hint) from None


def _unreadable(what: str, name: str, number: int, hint: str) -> DpoError:
    """What to raise for the row after row `number`."""
    return DpoError(what, where=f"{name}:{number + 1}" if number else name, hint=hint)


def _check_names(names: list[str], name: str) -> None:
    twice = next((column for column in names if names.count(column) > 1), None)
    if twice is not None:
        what = f"the column {quoted(twice)} is there twice"
        raise DpoError(what, where=name, hint="rename one of the two columns", code="written-twice")


def _without_dates(batch: Any) -> Any:
    """The batch with dates and times as text: Arrow has some that Python has not."""
    import pyarrow

    columns = [
        column.cast(pyarrow.string()) if pyarrow.types.is_temporal(column.type) else column
        for column in batch.columns
    ]
    return pyarrow.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _as_text(value: Any) -> Any:
    """A value that JSON cannot have, such as a date, as text; bytes that are no text stay recognisable."""
    if not isinstance(value, bytes):
        return str(value)
    try:
        return value.decode()  # some writers store texts as bytes
    except UnicodeDecodeError:
        return {"bytes": len(value)}
