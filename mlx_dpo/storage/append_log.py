"""A log of results by id that only grows: work that was killed goes on from what is there.

NAME.jsonl    one row a result, each with its key; of several rows with one key the last counts
NAME.json     the settings that the results depend on: with others nobody goes on
.NAME.lock    while a process writes
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from ..errors import DpoError
from .files import sync, unwritable, write_text
from .jsonl import read_jsonl
from .locks import BusyError, locked
from .reading import is_there, opened, read_object


class AppendLog(NamedTuple):
    """Where a log is, and what its results depend on.

    `compared`: names in `settings`, with dots for what is inside, whose values must be the same to go on;
    each with the word that a message says, or None for the name itself and its old value. `writer`: the
    command that writes the log. `holds`: what the results are. `setting`: what names the folder. `beside`:
    other files of the writer there.
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

    def check(self) -> None:
        """Check that what the folder holds already may be gone on with.

        Raises:
            DpoError: results of other settings, or files of these names that the writer did not make.
        """
        folder = self.path.parent
        if not is_there(self.settings_file):
            foreign = [name for name in (self.path.name, *self.beside) if is_there(folder / name)]
            if foreign:
                raise DpoError(
                    f"holds {', '.join(foreign)}, and {self.writer} did not write it",
                    where=folder,
                    hint="choose another folder with --output, so that nothing of yours is replaced",
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
                f"holds {self.holds} made with another {', '.join(different)}",
                where=folder,
                hint=f"choose another {self.setting}, or delete this folder to start over",
            )

    @contextmanager
    def open(self, read: Callable[[dict[str, Any], str], tuple[str, Any]]) -> Iterator["OpenLog"]:
        """The log for this process alone; a half-written last line is cut off.

        Args:
            read: a row and its place to its key and result; raises DpoError for a row of another kind.

        Raises:
            DpoError: as `check`; another process writes it, or it cannot be written.
        """
        path = self.path
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(path.with_name(f".{path.stem}.lock")))
            except BusyError:
                raise DpoError(
                    f"another {self.writer} is at work here",
                    where=path.parent,
                    hint="wait for it, or stop it",
                ) from None
            except OSError as error:
                raise unwritable(path, error) from None
            self.check()
            if not is_there(self.settings_file):
                write_text(self.settings_file, json.dumps(dict(self.settings), indent=1) + "\n")
            if is_there(path):
                _whole_lines(path)  # a pipe is refused here, and would be waited for below
            try:
                # Without a buffer: what a full disk refused must not be tried again when the file is closed.
                file = stack.enter_context(open(path, "ab", buffering=0))
            except OSError as error:
                raise unwritable(path, error) from None
            file.truncate(_whole_lines(path))
            sync(path)
            try:
                yield OpenLog(path, file, dict(read(row, where) for where, row in read_jsonl(path)))
            finally:
                sync(path)


class OpenLog:
    """`results` by key, and the way to add one."""

    def __init__(self, path: Path, file: IO[bytes], results: dict[str, Any]):
        self.results = results
        self._path, self._file = path, file

    def append(self, key: str, row: Mapping[str, Any], result: Any) -> None:
        """Add a result: the row that it is read from, one whole line, and the result itself.

        Raises:
            DpoError: the disk refused; the next start cuts off what is there of the line.
        """
        line = (json.dumps({"key": key, **row}, ensure_ascii=False) + "\n").encode()
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            raise unwritable(self._path, error) from None
        self.results[key] = result


def _inside(settings: Any, name: str) -> Any:
    """The value under a dotted name; None where there is none."""
    for part in name.split("."):
        settings = settings.get(part) if isinstance(settings, Mapping) else None
    return settings


def _whole_lines(path: Path) -> int:
    """Bytes of the file up to the end of its last whole line."""
    with opened(path) as file:
        return file.read().rfind(b"\n") + 1
