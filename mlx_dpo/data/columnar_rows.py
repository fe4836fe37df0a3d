"""Rows of Parquet and Arrow files, in batches, through pyarrow."""

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import DpoError, first_line

RowsRead = Iterator[tuple[int, bytes, int]]
"""Rows as lines of JSON, each with its number from 1 and, roughly, the bytes of the file that are read."""

_BATCH = 256
"""Rows that are in memory at a time."""


def parquet_rows(path: Path, name: str) -> RowsRead:
    """The rows of a Parquet file.

    Raises:
        DpoError: pyarrow is missing, or the file is damaged.
    """
    check_pyarrow(name)
    import pyarrow.parquet

    def batches() -> Iterator[tuple[Any, int]]:
        with pyarrow.parquet.ParquetFile(path) as file:
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
            for row in batch.to_pylist():
                number += 1
                yield number, json.dumps(row, ensure_ascii=False, default=_told).encode(), done
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        what = f"is damaged: {first_line(error)[:200]}"
        raise DpoError(
            what, where=f"{name}:{number + 1}" if number else name, hint="get the file again"
        ) from None


def _told(value: Any) -> str:
    """A value that JSON cannot have, such as a date or bytes, as text."""
    return f"<{len(value):,} bytes>" if isinstance(value, bytes) else str(value)
