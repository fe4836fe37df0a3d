"""The pairs of a file without their text: checked once, then found by line and by prompt."""

import hashlib
from array import array
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..console import progress
from ..errors import DpoError
from ..records import Preference
from ..storage.cache import content_hash, kept
from ..storage.jsonl import parse_line, read_row
from ..storage.reading import opened
from .formats import to_answer, to_pairs
from .row_reader import Parse, RowReader
from .sources import doubled_id
from .splits import prompt_key

_VERSION = 4
"""Increase this number when other files are accepted, other prompts count as equal, or the columns change."""

_COLUMNS = {"lines": "<i4", "numbers": "<i4", "places": "<i8", "prompts": "S16"}
"""Files of the index, with their types. A prompt is 16 bytes of the hash of its key, compared as bytes."""
_BLOCK, _SLOW = 2**16, 2**24


@dataclass(frozen=True, eq=False)
class RowIndex:
    """Every pair of a file that was read and is valid, in order; 32 bytes a pair, on disk.

    `content`: SHA-256 of the file. For each pair, `lines`: line of its row, int32; `numbers`: number of the
    pair in its row, from 0, int32; `places`: first byte of its row, int64; `prompts`: 16-byte hash.
    `answers`: only answers are read, see `to_answer`. `unused`: unused columns, with the number of rows that
    have each.
    """

    path: Path
    content: str
    lines: np.ndarray
    numbers: np.ndarray
    places: np.ndarray
    prompts: np.ndarray
    answers: bool = False
    unused: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.lines)

    def where(self, pair: int) -> str:
        """ "file:line" of the pair's row."""
        return f"{self.path}:{self.lines[pair]}"

    def read(self, pair: int) -> Preference:
        """The text of one pair, read from the file."""
        with opened(self.path) as file:
            file.seek(int(self.places[pair]))
            line = read_row(file, self.where(pair))
        records = _parser(self.answers)(parse_line(line, self.where(pair)), self.where(pair))
        if self.numbers[pair] >= len(records):
            raise _changed(self.path)
        return records[self.numbers[pair]]

    def records(self) -> Iterator[Preference]:
        """The text of every pair, in order, one row at a time."""
        for line in RowReader(self.path, _parser(self.answers)).good():
            yield from line.records


def _parser(answers: bool) -> Parse[Preference]:
    return (lambda row, where: [to_answer(row, where)]) if answers else to_pairs


def index_rows(path: Path | str, *, answers: bool = False) -> RowIndex:
    """Read every row of a file of pairs, or find in the cache that the same content was read before.

    Args:
        answers: the rows are answers to learn: curated answers, or the chosen answers of pairs.

    Raises:
        DpoError: a bad row, the same id twice, or no rows.
    """
    path = Path(path)
    reader = RowReader(path, _parser(answers))
    content = content_hash(path)
    key = {"rows": content, "version": _VERSION, "mlx_dpo": __version__, "answers": answers}
    entry = kept("rows", key, lambda folder: _write(reader, content, folder, answers), str(path))

    return _index(path, content, entry.folder, answers, entry.facts["unused"])


def _index(path: Path, content: str, folder: Path, answers: bool, unused: Mapping[str, int]) -> RowIndex:
    """The index whose columns are the files of a folder."""
    columns = [np.memmap(folder / name, dtype, "r") for name, dtype in _COLUMNS.items()]
    return RowIndex(path, content, *columns, answers, unused)


def check_unchanged(path: Path, content: str) -> None:
    """Check that a file still has the content with this hash.

    Raises:
        DpoError: the content changed.
    """
    if content_hash(path) != content:
        raise _changed(path)


def _changed(path: Path) -> DpoError:
    return DpoError(
        "changed while it was read", where=path, hint="give the command again when the file is complete"
    )


def _write(reader: RowReader[Preference], content: str, folder: Path, answers: bool) -> dict[str, Any]:
    """Read all rows once and write the columns, pair by pair."""
    path, ids = reader.path, array("Q")
    size = path.stat().st_size
    with ExitStack() as stack:
        lines, numbers, places, prompts = (
            stack.enter_context(open(folder / name, "wb")) for name in _COLUMNS
        )
        bar = (
            progress(f"checking {path.name}", size // 2**20, "MB") if size > _SLOW else nullcontext(_nothing)
        )
        advance = stack.enter_context(bar)
        for line in reader.good():
            for number, pair in enumerate(line.records):
                ids.append(int.from_bytes(_hash(pair.id, 8), "little"))
                lines.write(line.number.to_bytes(4, "little"))
                numbers.write(number.to_bytes(4, "little"))
                places.write(line.place.to_bytes(8, "little"))
                prompts.write(_hash(prompt_key(pair.prompt), 16))
            if megabytes := line.end // 2**20 - line.place // 2**20:
                advance(megabytes)
    _check_ids(np.frombuffer(ids, np.uint64), _index(path, content, folder, answers, {}))
    check_unchanged(path, content)
    return {"rows": reader.rows, "unused": reader.unused}


def _nothing(count: int) -> None:
    pass


def _hash(text: str, size: int) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=size).digest()


def _check_ids(hashes: np.ndarray, index: RowIndex) -> None:
    """Compare pairs whose ids have the same 8-byte hash, and refuse the first id that is used twice."""
    order = np.argsort(hashes, kind="stable")
    same = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
    for later in sorted(order[same + 1].tolist()):
        second = index.read(later)
        for earlier in np.flatnonzero(hashes[:later] == hashes[later]).tolist():
            if (first := index.read(earlier)).id == second.id:
                raise doubled_id(first, second)


def shared_prompts(rows: RowIndex, others: RowIndex) -> np.ndarray:
    """Numbers of the pairs whose prompt is also in `others`, int64."""
    ours = np.array(rows.prompts)
    blocks = (np.array(others.prompts[i : i + _BLOCK]) for i in range(0, len(others), _BLOCK))
    found = np.concatenate([block[np.isin(block, ours)] for block in blocks])
    return np.flatnonzero(np.isin(ours, found))
