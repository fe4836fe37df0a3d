"""Read a file of pairs to its end: every good row, and every defect of the others."""

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..console import progress
from ..data.lazy_sequence import Lazy
from ..data.own_format import to_pairs
from ..data.row_files import Rows, Source, open_rows
from ..data.row_index import RowIndex
from ..data.row_reader import Line, RowReader
from ..data.sources import doubled_id
from ..data.splits import prompt_key
from ..data.tokenize import TokenizedPair
from ..records import Preference
from . import answer_checks, pair_checks  # noqa: F401  (they register their checks)
from .defects import Defect, defect
from .duplicates import CONTRADICTS, DUPLICATE_PAIR, LEAK, first_with, repeated, text_hash
from .indentation import of_indents
from .refused_rows import refused
from .row_checks import Context, inspected, tokenised
from .score_columns import of_scores


class FoundPairs(Lazy[TokenizedPair]):
    """The pairs of a file that a run would train on; text and tokens are made on demand.

    As in a `PairStore`: `sizes`, tokens of prompt, chosen and rejected, int32 (n, 3), and `texts`.
    """

    def __init__(self, index: RowIndex, rows: np.ndarray, sizes: np.ndarray, context: Context):
        self.sizes = sizes
        self._index, self._rows, self._context = index, rows, context
        super().__init__(len(rows), self._tokens)

    @property
    def texts(self) -> Sequence[Preference]:
        """The rows of text from which the pairs are made."""
        return Lazy(len(self), lambda i: self._index.read(int(self._rows[i])))

    def _tokens(self, i: int) -> TokenizedPair:
        return tokenised(self.texts[i], self._context)


class Scan(NamedTuple):
    """The content of a file: the number of rows, their defects, the rows that a run could read, the pairs.

    `cut_off`: number of pairs with an answer that is marked as cut off.
    """

    rows: int
    defects: list[Defect]
    index: RowIndex
    pairs: FoundPairs
    cut_off: int


def scan(source: Source, context: Context) -> Scan:
    """Read all rows as a run would, but continue after errors; about 70 bytes per pair stay in memory.

    Raises:
        DpoError: the file cannot be read, changes while it is read, or has no rows.
    """
    rows = open_rows(source)
    reader = RowReader(rows, to_pairs)
    cut_off, columns = 0, _Columns()
    defects: list[Defect] = []
    label = f"inspecting {Path(rows.label).name}"
    with progress(label, rows.path.stat().st_size // 1024, "kB") as advance:
        for line in reader:
            where, trained_on = line.where, False
            if line.error:
                defects.append(refused(line.error, where))
            for number, text in enumerate(line.records):
                pair, found = inspected(text, where, context)
                columns.add(line, number, text, pair)
                defects += found
                if pair:
                    trained_on, cut_off = True, cut_off + (text.chosen_cut or text.rejected_cut)
            if trained_on:
                defects += [*of_scores(line.row, where), *of_indents(line.row, where)]
            if kilobytes := line.end // 1024 - line.place // 1024:
                advance(kilobytes)
    rows.check_unchanged()
    index = columns.index(rows, reader)
    defects += columns.repeats(index)
    order = [part.name for part in rows.parts]
    defects.sort(key=lambda d: (order.index(d.file), d.line))
    return Scan(reader.rows, defects, index, columns.pairs(index, context), cut_off)


class _Columns:
    """Data about every pair that a run could read: its place, its hashes, and its sizes (0 if dropped)."""

    def __init__(self):
        self._lines, self._numbers, self._places, self._sizes = (array(kind) for kind in "iiqi")
        self._prompts, self._ids, self._pairs, self._swapped = (bytearray() for _ in range(4))

    def add(self, line: Line[Preference], number: int, text: Preference, pair: TokenizedPair | None) -> None:
        prompt = prompt_key(text.prompt)
        self._lines.append(line.number)
        self._numbers.append(number)
        self._places.append(line.place)
        self._sizes.extend((len(pair.prompt), len(pair.chosen), len(pair.rejected)) if pair else (0, 0, 0))
        self._prompts += text_hash(prompt, size=16)
        self._ids += text_hash(text.id)
        self._pairs += text_hash(prompt, text.chosen, text.rejected)
        self._swapped += text_hash(prompt, text.rejected, text.chosen)

    def index(self, rows: Rows, reader: RowReader[Preference]) -> RowIndex:
        """The pairs without their text."""
        lines, numbers = (np.frombuffer(column, np.int32) for column in (self._lines, self._numbers))
        places = np.frombuffer(self._places, np.int64)
        prompts = np.frombuffer(self._prompts, "S16")
        unused, left_out = dict(reader.unused), reader.left_out
        return RowIndex(rows, lines, numbers, places, prompts, unused=unused, left_out=left_out)

    def pairs(self, index: RowIndex, context: Context) -> FoundPairs:
        """The rows that a run would train on."""
        rows = self._kept()
        return FoundPairs(index, rows, self._all_sizes()[rows], context)

    def repeats(self, index: RowIndex) -> list[Defect]:
        """Ids that occur twice; pairs that occur twice, or once more with exchanged answers."""
        ids, pairs, swapped = (
            np.frombuffer(column, np.uint64) for column in (self._ids, self._pairs, self._swapped)
        )
        found = []
        for row, first in repeated(ids, ids):
            found.append(refused(doubled_id(index.read(first), index.read(row)), index.where(row)))
        kept = self._kept()
        for code, others, what in (
            (DUPLICATE_PAIR, pairs, "the same pair is at {}"),
            (CONTRADICTS, swapped, "{} prefers the other answer"),
        ):
            for row, first in repeated(pairs[kept], others[kept]):
                where = index.where(kept[row])
                found.append(defect(where, code, what.format(index.where(kept[first]))))
        return found

    def _all_sizes(self) -> np.ndarray:
        return np.frombuffer(self._sizes, np.int32).reshape(-1, 3)

    def _kept(self) -> np.ndarray:
        return np.flatnonzero(self._all_sizes().any(axis=1))


def leaks(train: RowIndex, held: RowIndex) -> list[Defect]:
    """Held-out rows whose prompt is in the training file."""
    first = first_with(np.array(held.prompts), np.array(train.prompts))
    return [
        defect(held.where(row), LEAK, f"the same prompt is at {train.where(first[row])}")
        for row in np.flatnonzero(first >= 0)
    ]
