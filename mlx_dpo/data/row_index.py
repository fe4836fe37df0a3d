"""The pairs of one or more files without their text: checked once, then found by line and by prompt."""

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
from ..records import Preference
from ..storage.cache import kept
from ..storage.jsonl import parse_line, read_row
from ..storage.reading import opened
from .known_formats import NoPairError
from .own_format import to_answers, to_pairs
from .row_files import Rows, Source, changed, open_rows
from .row_reader import Parse, RowReader, records_of
from .sources import doubled_id, no_pairs
from .splits import prompt_key
from .unusable_rows import LeftOut

_VERSION = 6
"""Increase this number when other files are accepted, other prompts count as equal, or the columns change."""

_COLUMNS = {"lines": "<i4", "numbers": "<i4", "places": "<i8", "prompts": "S16"}
"""Files of the index, with their types. A prompt is 16 bytes of the hash of its key, compared as bytes."""
_BLOCK, _SLOW = 2**16, 2**24


@dataclass(frozen=True, eq=False)
class RowIndex:
    """Every pair that was read and is valid, in order; 32 bytes a pair, on disk.

    `source`: the rows. For each pair, `lines`: line of its row, int32; `numbers`: number of the pair in its
    row, from 0, int32; `places`: first byte of its row, int64; `prompts`: 16-byte hash. `answers`: only
    answers are read, see `to_answers`. `unused`: unused columns, with the number of rows that have each.
    `left_out`: rows that make no pair.
    """

    source: Rows
    lines: np.ndarray
    numbers: np.ndarray
    places: np.ndarray
    prompts: np.ndarray
    answers: bool = False
    unused: Mapping[str, int] = field(default_factory=dict)
    left_out: LeftOut = field(default_factory=LeftOut)

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def identity(self) -> str:
        """A hash of the user's files, and of how they were converted."""
        return self.source.identity

    def where(self, pair: int) -> str:
        """ "file:line" of the pair's row."""
        return self.source.where(int(self.lines[pair]))

    def read(self, pair: int) -> Preference:
        """The text of one pair, read from the file."""
        with opened(self.source.path) as file:
            file.seek(int(self.places[pair]))
            line = read_row(file, self.where(pair))
        row = parse_line(line, self.where(pair))
        try:
            return records_of(row, int(self.lines[pair]), self.source, _parser(self.answers))[
                self.numbers[pair]
            ]
        except (NoPairError, IndexError):
            raise changed(self.source.label) from None

    def records(self) -> Iterator[Preference]:
        """The text of every pair, in order, one row at a time."""
        for line in RowReader(self.source, _parser(self.answers)).good():
            yield from line.records


def _parser(answers: bool) -> Parse[Preference]:
    return to_answers if answers else to_pairs


def index_rows(source: Source, *, answers: bool = False) -> RowIndex:
    """Read every row of a source of pairs, or find in the cache that the same content was read before.

    Args:
        answers: the rows are answers to learn: curated answers, or the chosen answers of pairs.

    Raises:
        DpoError: a bad row, the same id twice, or no pairs.
    """
    rows = open_rows(source)
    reader = RowReader(rows, _parser(answers))
    names = [part.name for part in rows.parts] if len(rows.parts) > 1 else []  # they are in the ids
    key = {
        "rows": rows.identity,
        "version": _VERSION,
        "mlx_dpo": __version__,
        "answers": answers,
        "files": names,
        "formats": [part.form.name if part.form else "" for part in rows.parts],
    }
    entry = kept("rows", key, lambda folder: _write(reader, folder, answers), rows.label)
    left_out = LeftOut(entry.facts["left_out"])
    if not entry.facts["pairs"]:
        raise no_pairs(rows, left_out)
    return _index(rows, entry.folder, answers, entry.facts["unused"], left_out)


def _index(
    rows: Rows, folder: Path, answers: bool, unused: Mapping[str, int], left_out: LeftOut | None = None
) -> RowIndex:
    """The index whose columns are the files of a folder."""
    columns = [np.memmap(folder / name, dtype, "r") for name, dtype in _COLUMNS.items()]
    return RowIndex(rows, *columns, answers, unused, left_out or LeftOut())


def _write(reader: RowReader[Preference], folder: Path, answers: bool) -> dict[str, Any]:
    """Read all rows once and write the columns, pair by pair."""
    rows, ids = reader.source, array("Q")
    size = rows.path.stat().st_size
    with ExitStack() as stack:
        lines, numbers, places, prompts = (
            stack.enter_context(open(folder / name, "wb")) for name in _COLUMNS
        )
        label = f"checking {Path(rows.label).name}"
        bar = progress(label, size // 2**20, "MB") if size > _SLOW else nullcontext(_nothing)
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
    if ids:
        _check_ids(np.frombuffer(ids, np.uint64), _index(rows, folder, answers, {}))
    rows.check_unchanged()
    return {
        "rows": reader.rows,
        "pairs": len(ids),
        "unused": reader.unused,
        "left_out": reader.left_out.found,
    }


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
