"""The rows of a file of pairs without their text: checked once, then found again by line and by prompt."""

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
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
from ..storage.jsonl import parse_line, read_jsonl, read_lines, read_row
from ..storage.reading import opened
from .foreign_files import check_is_jsonl
from .foreign_rows import count_unused
from .formats import to_answer, to_preference
from .sources import doubled_id, no_rows
from .splits import prompt_key

_VERSION = 3
"""Raise it when another file would be accepted, or two prompts would count as the same that did not."""

_PROMPT = "S16"
"""16 bytes of a prompt's key; numpy sorts and compares these as bytes, and pads none of them."""
_BLOCK, _SLOW = 2**16, 2**24


@dataclass(frozen=True, eq=False)
class RowIndex:
    """Every row of a file that was read and found good; 28 bytes a row, on the disk.

    `content` is the file's SHA-256; `lines` int32, `places` int64 (first byte), `prompts` 16-byte hashes;
    with `answers`, only answers are looked at, see `to_answer`; `unused`: columns that are not used, and how
    many rows have them.
    """

    path: Path
    content: str
    lines: np.ndarray
    places: np.ndarray
    prompts: np.ndarray
    answers: bool = False
    unused: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.lines)

    def where(self, row: int) -> str:
        """ "file:line" of a row, by the name that the file has today."""
        return f"{self.path}:{self.lines[row]}"

    def read(self, row: int) -> Preference:
        """One row's text, from its place in the file."""
        return _read_at(self.path, int(self.places[row]), self.where(row), _parser(self.answers))

    def records(self) -> Iterator[Preference]:
        """Every row's text, in order, one at a time."""
        parse = _parser(self.answers)
        return (parse(row, where) for where, row in read_jsonl(self.path))


Parser = Callable[[dict[str, Any], str], Preference]


def _parser(answers: bool) -> Parser:
    return to_answer if answers else to_preference


def index_rows(path: Path | str, *, answers: bool = False) -> RowIndex:
    """Read every row of a file of pairs, or know from the cache that this content was read.

    Args:
        answers: rows are of answers to learn, curated ones or the chosen ones of pairs.

    Raises:
        DpoError: a bad row, the same id twice, or no rows.
    """
    path = Path(path)
    check_is_jsonl(path)
    content = content_hash(path)
    key = {"rows": content, "version": _VERSION, "mlx_dpo": __version__, "answers": answers}
    entry = kept("rows", key, lambda folder: _write(path, content, folder, _parser(answers)), str(path))

    def column(name: str, dtype: str) -> np.ndarray:
        return np.memmap(entry.folder / name, dtype, "r")

    return RowIndex(
        path,
        content,
        column("lines", "<i4"),
        column("places", "<i8"),
        column("prompts", _PROMPT),
        answers,
        entry.facts["unused"],
    )


def check_unchanged(path: Path, content: str) -> None:
    """Check that a file still has the content with this hash.

    Raises:
        DpoError: it has another one.
    """
    if content_hash(path) != content:
        raise DpoError("changed while it was read", where=path, hint="start again when it is complete")


def _write(path: Path, content: str, folder: Path, parse: Parser) -> dict[str, Any]:
    """Read all rows once and write the columns, row by row."""
    ids, rows, size, unused = array("Q"), 0, path.stat().st_size, Counter()
    with ExitStack() as stack:
        lines, places, prompts = (
            stack.enter_context(open(folder / name, "wb")) for name in ("lines", "places", "prompts")
        )
        bar = (
            progress(f"checking {path.name}", size // 2**20, "MB") if size > _SLOW else nullcontext(_nothing)
        )
        advance = stack.enter_context(bar)
        for number, place, line in read_lines(path):
            where = f"{path}:{number}"
            plain = parse_line(line, where)
            row = parse(plain, where)
            count_unused(plain, unused)
            ids.append(int.from_bytes(_hash(row.id, 8), "little"))
            lines.write(number.to_bytes(4, "little"))
            places.write(place.to_bytes(8, "little"))
            prompts.write(_hash(prompt_key(row.prompt), 16))
            rows += 1
            if megabytes := (place + len(line)) // 2**20 - place // 2**20:
                advance(megabytes)
    if not rows:
        raise no_rows(path)
    _check_ids(path, ids, folder, parse)
    check_unchanged(path, content)
    return {"rows": rows, "unused": unused}


def _nothing(count: int) -> None:
    pass


def _hash(text: str, size: int) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=size).digest()


def _check_ids(path: Path, ids: array, folder: Path, parse: Parser) -> None:
    """Look at rows whose ids have the same 8-byte hash: the first that has another's id is refused."""
    hashes = np.frombuffer(ids, np.uint64)
    order = np.argsort(hashes, kind="stable")
    same = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
    if not len(same):
        return
    places = np.fromfile(folder / "places", "<i8")
    lines = np.fromfile(folder / "lines", "<i4")

    def row(i: int) -> Preference:
        return _read_at(path, int(places[i]), f"{path}:{lines[i]}", parse)

    for later in sorted(order[same + 1].tolist()):
        second = row(later)
        for earlier in np.flatnonzero(hashes[:later] == hashes[later]).tolist():
            if (first := row(earlier)).id == second.id:
                raise doubled_id(first, second)


def _read_at(path: Path, place: int, where: str, parse: Parser) -> Preference:
    with opened(path) as file:
        file.seek(place)
        line = read_row(file, where)
    return parse(parse_line(line, where), where)


def shared_prompts(rows: RowIndex, others: RowIndex) -> np.ndarray:
    """Numbers of the rows whose prompt stands in `others` too, int64."""
    ours = np.array(rows.prompts)
    blocks = (np.array(others.prompts[i : i + _BLOCK]) for i in range(0, len(others), _BLOCK))
    found = np.concatenate([block[np.isin(block, ours)] for block in blocks])
    return np.flatnonzero(np.isin(ours, found))
