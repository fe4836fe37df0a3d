"""What a user names as data, as one JSONL file: read in place, or converted once and kept in the cache."""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import __version__
from ..console import plural, progress
from ..errors import DpoError
from ..storage.cache import content_hash, kept
from ..storage.checksummed_folder import digest
from ..storage.jsonl import ROW_BYTES, parse_line, read_row, too_long
from ..storage.reading import entries, expanded, is_folder, is_there, opened, path_text
from .file_kinds import FileKind, kind_of_file
from .hub_files import hub_files, is_hub_name
from .known_formats import RowFormat, detected

Source = str | Path | Sequence[str | Path]
"""A file, a folder of files, the name of a data set on the Hub, or a list of these."""

_VERSION = 2
"""Increase this number when the same files are converted to other rows."""
_SLOW = 2**24
_FIRST = 32
"""Lines of a file from which its format is detected."""
_SUFFIXES = re.compile(r"\.(jsonl?|ndjson|csv|tsv|parquet|arrow|feather)(\.(gz|bz2|xz))?$")
_NO_ROWS = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
"""Files that the library `datasets` writes beside its rows."""
_HELD_OUT = {"valid", "validation", "val", "dev", "eval", "evaluation", "test", "held", "heldout"}
"""Words in the names of files with held-out rows."""


class RowFile(NamedTuple):
    """One of the user's files: its path, and its name in messages."""

    path: Path
    name: str


class Part(NamedTuple):
    """The rows of one of the user's files: its name, its first line in the JSONL file, and its format.

    `kind`: what the file is. `form`: None for our own form.
    """

    name: str
    first: int
    kind: FileKind
    form: RowFormat | None


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows as one JSONL file at `path`, wherever they come from.

    `files`: the user's files. `parts`: their rows, in order. `numbers`: the number of each line in the
    user's file, int32; None if `path` is the user's file. `content`: a hash of the user's files. `identity`:
    a hash of that and of how they were converted. `label`: the name of the whole in messages.
    """

    path: Path
    files: tuple[Path, ...]
    parts: tuple[Part, ...]
    numbers: np.ndarray | None
    content: str
    identity: str
    label: str

    def part(self, line: int) -> Part:
        """The part that a line belongs to; lines count from 1."""
        return self.parts[bisect_right(self.parts, line, key=lambda part: part.first) - 1]

    def where(self, line: int) -> str:
        """ "file:line" of the user's file; for Parquet, the number of the row."""
        number = line if self.numbers is None else self.numbers[line - 1]
        return f"{self.part(line).name}:{number}"

    def check_unchanged(self) -> None:
        """Check that the user's files still have the content that was read.

        Raises:
            DpoError: the content changed.
        """
        _check_content(self.files, self.content, self.label)

    def descriptions(self) -> Iterator[str]:
        """What the files are that do not have our own form; files of the same kind share a line."""
        alike: dict[str, list[str]] = {}
        for part in self.parts:
            facts = [] if part.kind.plain else [part.kind.name]
            facts += [part.form.name] if part.form else []
            if facts:
                note = f" ({part.form.note})" if part.form and part.form.note else ""
                alike.setdefault(f"{', '.join(facts)}{note}", []).append(part.name)
        for facts, names in alike.items():
            yield f"{_together(names)}: {facts}"


def _together(names: Sequence[str]) -> str:
    more = f" and {plural(len(names) - 1, 'other file')}" if len(names) > 1 else ""
    return f"{names[0]}{more}"


def changed(label: str) -> DpoError:
    """What to raise for files whose content changed while they were read."""
    return DpoError(
        "changed while it was read", where=label, hint="give the command again when the file is complete"
    )


def open_rows(source: Source) -> Rows:
    """The rows of a source; what is not one JSONL file is converted first, and kept in the cache.

    Raises:
        DpoError: a file is missing or has no rows in a form that can be read, or a row cannot be converted.
    """
    files = row_files(source)
    kinds = [kind_of_file(file.path) for file in files]
    content = _content([file.path for file in files])
    if len(files) == 1 and kinds[0].plain:
        (file,) = files
        part = Part(file.name, 1, kinds[0], _form(file.path, 0, file.path.stat().st_size))
        return Rows(file.path, (file.path,), (part,), None, content, content, file.name)
    label = _together([file.name for file in files])
    paths = tuple(file.path for file in files)
    key = {
        "converted": content,
        "kinds": [kind.name for kind in kinds],
        "version": _VERSION,
        "mlx_dpo": __version__,
    }

    def write(folder: Path) -> dict[str, Any]:
        facts = _convert(files, kinds, folder)
        _check_content(paths, content, label)
        return facts

    room = sum(path.stat().st_size for path in paths)
    entry = kept("rows_jsonl", key, write, label, room)
    path = entry.folder / "rows.jsonl"
    parts = tuple(
        Part(file.name, first, kind, _form(path, place, end))
        for file, kind, (first, place, end) in zip(files, kinds, entry.facts["parts"], strict=True)
    )
    size = (entry.folder / "numbers").stat().st_size
    numbers = np.memmap(entry.folder / "numbers", "<i4", "r") if size else np.empty(0, np.int32)
    return Rows(path, paths, parts, numbers, content, digest(key), label)


def _content(paths: Sequence[Path]) -> str:
    sums = [content_hash(path) for path in paths]
    return sums[0] if len(sums) == 1 else digest({"files": sums})


def _check_content(paths: Sequence[Path], content: str, label: str) -> None:
    if _content(paths) != content:
        raise changed(label)


def row_files(source: Source) -> list[RowFile]:
    """The files that a source names.

    Raises:
        DpoError: there is no such file, folder or data set, or a folder has no files of rows.
    """
    if not isinstance(source, (str, Path)):
        return [file for one in source for file in row_files(one)]
    path = expanded(source)
    if str(source).startswith("hf://") or (is_hub_name(str(source)) and not is_there(path)):
        return [RowFile(found, name) for found, name in hub_files(str(source))]
    if not is_there(path):
        _check_no_file(path)
    if not is_folder(path):
        return [RowFile(path, path_text(path))]
    found = row_files_in(path)
    if not found:
        hint = (
            "give the path of a file, or of a folder with files of rows (.jsonl, .json, .csv, .tsv, .parquet)"
            ": folders inside it are not searched"
        )
        raise DpoError("is a folder without files of rows", where=path_text(path), hint=hint)
    if len({_is_held_out(one.name) for one in found}) > 1:
        names = ", ".join(one.name for one in found[:5])
        hint = "name one of the files; held-out rows must not be trained on"
        raise DpoError(f"has files of several splits ({names})", where=path_text(path), hint=hint)
    return [RowFile(one, path_text(one)) for one in found]


def row_files_in(folder: Path) -> list[Path]:
    """The files of rows in a folder, sorted by name; folders inside it are not searched."""
    return [one for one in entries(folder) if _may_hold_rows(one)]


def _may_hold_rows(path: Path) -> bool:
    name = path.name
    return bool(_SUFFIXES.search(name)) and name[0] != "." and name not in _NO_ROWS and not is_folder(path)


def _is_held_out(name: str) -> bool:
    return not _HELD_OUT.isdisjoint(re.split(r"[-_.]", name.lower()))


def _check_no_file(path: Path) -> None:
    """Check that a path without a file could be the path of one.

    Raises:
        DpoError: the path is something else; the hint says how to get a file from it.
    """
    name = str(path)
    if address := re.match(r"(\w\w+:)/+", name):
        hint = "download the file and give its path; a data set on the Hub is named hf://datasets/org/name"
        where = f"{address[1]}//{name[address.end() :]}"
        raise DpoError("is a web address, not a file", where=where, hint=hint)
    if re.search(r"[*?]|\[.*\]", name):
        hint = "give a folder, or a list of files: [a.jsonl, b.jsonl]"
        raise DpoError("is a pattern for several files, not the path of one file", where=name, hint=hint)


def _convert(files: Sequence[RowFile], kinds: Sequence[FileKind], folder: Path) -> dict[str, Any]:
    """Write all rows as JSONL, and their numbers; the first line, the first and last byte of each file."""
    parts, line = [], 1
    with ExitStack() as stack:
        out, numbers = (stack.enter_context(open(folder / name, "wb")) for name in ("rows.jsonl", "numbers"))
        for file, kind in zip(files, kinds, strict=True):
            first, place, done = line, out.tell(), 0
            size = file.path.stat().st_size
            bar = progress(f"converting {file.path.name}", size // 2**20, "MB") if size > _SLOW else None
            with bar or nullcontext(lambda count: None) as advance:
                for number, text, read in kind.rows(file.path, file.name):
                    if len(text) >= ROW_BYTES:
                        raise too_long(f"{file.name}:{number}")
                    out.write(text + b"\n")
                    numbers.write(number.to_bytes(4, "little"))
                    line += 1
                    if megabytes := read // 2**20 - done // 2**20:
                        advance(megabytes)
                        done = read
            parts.append((first, place, out.tell()))
    return {"parts": parts}


def _form(path: Path, place: int, end: int) -> RowFormat | None:
    """The format of the rows between two bytes of a JSONL file, detected from the first ones."""
    rows: list[dict[str, Any]] = []
    with opened(path) as file, suppress(DpoError):  # the reader of the rows refuses a line that is too long
        file.seek(place)
        for _ in range(_FIRST):
            if file.tell() < end:
                line = read_row(file, str(path))
                with suppress(DpoError):
                    rows.append(parse_line(line, str(path)))
    return detected(rows)
