"""A log of results by key that only grows: work that was killed continues where it stopped.

NAME.jsonl    one row per result, with its key; if several rows have the same key, the last one counts
NAME.json     the settings that the results depend on: work continues only with the same settings
.NAME.lock    exists while a process writes
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from ..errors import DpoError
from .files import sync, unwritable, with_replacement, write_text
from .jsonl import parse_line
from .locks import BusyError, locked
from .reading import is_there, opened, path_text, read_object

_BLOCK = 2**20


class AppendLog(NamedTuple):
    """Where a log is, and what its results depend on.

    `compared`: dotted names in `settings` whose values must be the same to continue, each with the word for
    it in a message, or None for the name itself and its old value. `writer`: the command that writes the log.
    `holds`: a word for the results. `setting`: the setting that names the folder. `beside`: other files that
    the writer makes there.
    """

    path: Path
    settings: Mapping[str, Any]
    compared: Mapping[str, str | None]
    writer: str
    holds: str
    setting: str
    beside: Sequence[str] = ()

    @property
    def settings_file(self) -> Path:
        """NAME.json."""
        return self.path.with_suffix(".json")

    def write_settings(self) -> None:
        """Write NAME.json."""
        write_text(self.settings_file, json.dumps(dict(self.settings), indent=1) + "\n")

    def check(self) -> None:
        """Check that the work in the folder can be continued.

        Raises:
            DpoError: the results have other settings, or the writer did not make the files there.
        """
        folder = self.path.parent
        if not is_there(self.settings_file):
            foreign = [name for name in (self.path.name, *self.beside) if is_there(folder / name)]
            if foreign:
                raise DpoError(
                    f"contains {', '.join(foreign)}, but {self.writer} did not write it",
                    where=folder,
                    hint="choose another folder with --output, so that no file of yours is replaced",
                )
            return
        old = read_object(self.settings_file, f"delete the folder {folder} to start over")
        different = [
            word or f"{name} (was {_inside(old, name)})"
            for name, word in self.compared.items()
            if _inside(old, name) != _inside(self.settings, name)
        ]
        if different:
            raise DpoError(
                f"contains {self.holds} made with another {', '.join(different)}",
                where=folder,
                hint=f"choose another {self.setting}, or delete this folder to start over",
            )

    @contextmanager
    def open(self, read: Callable[[dict[str, Any], str], tuple[str, Any]]) -> Iterator["OpenLog"]:
        """The log, locked for this process; a half-written last line is removed.

        Args:
            read: takes a row and its place, returns its key and result; raises DpoError for any other row.

        Raises:
            DpoError: as `check`; or another process writes the log, or it cannot be written.
        """
        path = self.path
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(path.with_name(f".{path.stem}.lock")))
            except BusyError:
                raise DpoError(
                    f"another {self.writer} is running in this folder",
                    where=path.parent,
                    hint="wait until it ends, or stop it",
                ) from None
            except OSError as error:
                raise unwritable(path, error) from None
            self.check()
            if not is_there(self.settings_file):
                self.write_settings()
            if is_there(path):
                _whole_lines(path)  # refuses a pipe, which would block below
            try:
                # Without a buffer: what a full disk refused to write must not be written again at the end.
                file = stack.enter_context(open(path, "ab", buffering=0))
            except OSError as error:
                raise unwritable(path, error) from None
            file.truncate(_whole_lines(path))
            sync(path)
            try:
                places = ((f"{path_text(path)}:{number}", line) for number, line in _lines(path))
                yield OpenLog(path, file, dict(read(_row(line, at), at) for at, line in places))
            finally:
                sync(path)


class OpenLog:
    """An open log: its `results` by key, `append` to add one, and `tidy` at the end."""

    def __init__(self, path: Path, file: IO[bytes], results: dict[str, Any]):
        self.results = results
        self._path, self._file = path, file

    def append(self, key: str, row: Mapping[str, Any], result: Any) -> None:
        """Add a result: its row, written as one line, and the result itself.

        Raises:
            DpoError: the disk refused to write; the next start removes a part of the line that was written.
        """
        # Half of a character, which a server may send, becomes its escape in JSON.
        line = (json.dumps({"key": key, **row}, ensure_ascii=False) + "\n").encode(errors="backslashreplace")
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            raise unwritable(self._path, error) from None
        self.results[key] = result

    def tidy(self) -> None:
        """Leave only the last row of each key in the file; the last thing that is done with an open log.

        Raises:
            DpoError: the disk refused to write; the file is then as it was.
        """
        rows, last = 0, {}
        for number, line in _lines(self._path):
            rows, last[json.loads(line)["key"]] = rows + 1, number
        if len(last) == rows:
            return
        kept = frozenset(last.values())

        def write(beside: Path) -> None:
            with open(beside, "wb") as file:
                file.writelines(line for number, line in _lines(self._path) if number in kept)

        with_replacement(self._path, write)


def _row(line: bytes, where: str) -> dict[str, Any]:
    try:
        return parse_line(line, where)
    except DpoError as error:
        if error.code == "half-character":
            return json.loads(line)
        raise error.instead(hint="remove the line: the same command then makes it again") from None


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Line number from 1 and bytes of each line that is not blank, however long it is."""
    with opened(path) as file:
        yield from ((number, line) for number, line in enumerate(file, 1) if line.strip())


def _inside(settings: Any, name: str) -> Any:
    """The value under a dotted name; None if there is none."""
    for part in name.split("."):
        settings = settings.get(part) if isinstance(settings, Mapping) else None
    return settings


def _whole_lines(path: Path) -> int:
    """Bytes of the file up to the end of its last complete line."""
    with opened(path) as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - _BLOCK)
            file.seek(start)
            if (found := file.read(end - start).rfind(b"\n")) >= 0:
                return start + found + 1
            end = start
    return 0
