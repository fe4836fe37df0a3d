"""Files that are complete or missing: write beside, fsync, rename; and checks before slow work."""

import errno
import os
import re
import shlex
import shutil
import socket
import subprocess
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import DpoError, first_line
from .reading import check_name, is_there, path_text

MARK = r"\.(\d+)(?:-([0-9a-f]{8}))?"
"""Process and machine in the name of a temporary file beside its target, `.NAME.PID-MACHINE`; names of older
versions have no machine.
"""
_BEFORE = ".before"
_REUSED_SECONDS, _DAY_SECONDS = 600, 24 * 3600
_WRITTEN: set[Path] = set()
"""Files and folders that this process is writing now."""


def write_text(path: Path, text: str) -> None:
    """Write text beside `path`, flush it to disk, rename it to `path`."""
    with_replacement(path, lambda beside: beside.write_text(text, encoding="utf-8"))


def with_replacement(
    path: Path, write: Callable[[Path], Any], first: Callable[[], None] = lambda: None
) -> None:
    """Let `write` make a file beside `path` (same suffix), then fsync and rename it to `path`.

    Args:
        first: called when the new file is complete, before it replaces the old one.
    """
    path = Path(path)
    with _beside(path, path.stem, path.suffix) as (beside,):
        write(beside)
        sync(beside)
        first()
        os.replace(beside, path)
        sync(path.parent)


def replace_folder(path: Path, write: Callable[[Path], Any], *, over: bool = False) -> None:
    """Let `write` fill a folder beside `path`, then fsync and rename it to `path`, which must not exist.

    Args:
        over: an existing folder is replaced when the new one is complete; for a moment `path` is missing.
    """
    path = Path(path)
    with _beside(path, path.name, "", _BEFORE) as (beside, before):
        beside.mkdir()
        write(beside)
        for file in (*beside.iterdir(), beside):
            sync(file)
        if over and path.exists():
            os.rename(path, before)
        os.rename(beside, path)
        sync(path.parent)


@contextmanager
def _beside(path: Path, name: str, *ends: str) -> Iterator[list[Path]]:
    """Names beside `path` that only this process writes; nothing is left there, however the block ends.

    Raises:
        DpoError: the disk refused to write.
    """
    make_folder(path.parent)
    remove_left(path)
    names = [_hidden(path, name, end) for end in ends]
    _WRITTEN.update(names)
    try:
        yield names
    except Exception as error:  # a full disk is a RuntimeError of MLX, and a bare Exception of tokenizers
        if isinstance(error, (OSError, RuntimeError)) or type(error) is Exception:
            raise unwritable(path, error) from None
        raise
    finally:
        for left in names:
            remove_any(left)
        _WRITTEN.difference_update(names)


def _hidden(path: Path, name: str, end: str) -> Path:
    return path.absolute().with_name(f".{name}.{os.getpid()}-{_machine()}{end}")


def _machine() -> str:
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def remove_left(path: Path) -> None:
    """Remove leftovers of killed processes beside `path`; every writer of this file does so first.

    Files that a process still writes stay. Leftovers of another machine with the same disk are removed only
    if they did not change for a day. A folder that was set aside for a new one that was never completed is
    put back.
    """
    path = Path(path).absolute()
    try:
        found = list(os.scandir(path.parent))
    except OSError:
        return
    for name, end in {(path.stem, path.suffix), (path.name, ""), (path.name, _BEFORE)}:
        pattern = re.compile(re.escape(f".{name}") + MARK + re.escape(end))
        for entry in found:
            if (match := pattern.fullmatch(entry.name)) and _is_left(Path(entry.path), *match.groups()):
                if end == _BEFORE and not os.path.lexists(path):
                    with suppress(OSError):
                        os.rename(entry.path, path)
                remove_any(Path(entry.path))


def remove_any(path: Path) -> None:
    """Remove a file, or a folder with its content, as far as the system allows."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _is_left(path: Path, process: str, machine: str | None) -> bool:
    """Whether no process writes this file or folder any more."""
    if path in _WRITTEN:
        return False
    try:
        changed = max(p.lstat().st_mtime for p in (path, *(path.iterdir() if path.is_dir() else ())))
    except OSError:  # it is being removed, or cannot be read
        return False
    if machine not in (None, _machine()):
        return changed < time.time() - _DAY_SECONDS
    return not _runs(int(process), changed)


def _runs(process: int, changed: float) -> bool:
    """Whether the process that changed a file at that time still runs; its number may be in use again."""
    if process == os.getpid():  # an earlier process with our number, as in a restarted container
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # a process of another user
        pass
    began = _began(process)
    return began is None or began <= changed + _REUSED_SECONDS


def _began(process: int) -> float | None:
    """Start of a process in seconds since 1970; infinite if it has ended; None if unknown."""
    command = ["ps", "-o", "stat=,lstart=", "-p", str(process)]
    try:
        told = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
        state, *words = told.stdout.split()
        ended = state.startswith("Z")
        return float("inf") if ended else time.mktime(time.strptime(" ".join(words)))
    except (OSError, ValueError):
        return None


def sync(path: Path) -> None:
    """Flush a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(path: Path) -> None:
    """Make a folder and its parents.

    Raises:
        DpoError: it cannot be made.
    """
    check_name(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from None


def check_writable(folder: Path, need_bytes: int = 0) -> None:
    """Check before slow work that `need_bytes` can be written to `folder`; nothing is left there.

    Leftovers of killed processes are removed first.

    Raises:
        DpoError: no permission, a file in the place of the folder, or not enough space.
    """
    existing = Path(folder).absolute()
    remove_left(existing)
    while not is_there(existing):
        existing = existing.parent
    if not existing.is_dir():
        raise DpoError(
            f"{existing} is a file" if existing != Path(folder).absolute() else "is a file, not a folder",
            where=folder,
            hint="choose another output folder",
        )
    probe = existing / "writable"
    remove_left(probe)
    try:
        # Permission bits are not enough: the disk may be read-only, or the system may protect the folder.
        beside = _hidden(probe, probe.name, "")
        beside.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):  # another thread's check has removed it
            beside.rmdir()
    except OSError as error:
        raise DpoError(
            f"cannot write in {existing}: {error.strerror}",
            where=folder,
            hint="choose another output folder",
        ) from None
    free = shutil.disk_usage(existing).free
    if free < need_bytes:
        digits = 2 if need_bytes >= 1e7 else 4
        raise DpoError(
            f"needs {need_bytes / 1e9:.{digits}f} GB, but the disk has {free / 1e9:.2f} GB left",
            where=folder,
            hint="free some space, or choose an output folder on another disk",
        )


def unwritable(path: Path, error: Exception) -> DpoError:
    """What to raise when the system refuses to write `path`."""
    if getattr(error, "errno", None) in (errno.EEXIST, errno.ENOTEMPTY) and os.path.lexists(path):
        return DpoError("exists already", where=path_text(path), hint="choose another output folder")
    remedy = "free some space or choose another output folder"
    if isinstance(error, PermissionError):
        folder = shlex.quote(path_text(Path(path).parent))
        remedy = f"give yourself write permission there (chmod u+wx {folder}) or choose another output folder"
    elif getattr(error, "errno", None) in (errno.EROFS, errno.ENAMETOOLONG):
        remedy = "choose another output folder"
    return DpoError(
        f"cannot be written: {getattr(error, 'strerror', None) or first_line(error)}",
        where=path_text(path),
        hint=f"{remedy}; what was there before is unchanged",
    )


def bytes_to_copy(files: Iterable[Path], target: Path) -> int:
    """Bytes that `link_or_copy` needs for these files in the folder `target`.

    Files on its disk need none, unless the disk has no links, as exFAT: one link is tried.
    """
    existing = Path(target).absolute()
    while not is_there(existing):
        existing = existing.parent
    sizes = {Path(file): os.stat(file) for file in files}
    near = [file for file, own in sizes.items() if own.st_dev == os.stat(existing).st_dev]
    linked = near if near and _has_links(existing) else []
    return sum(own.st_size for file, own in sizes.items() if file not in linked)


def _has_links(folder: Path) -> bool:
    """Whether a file can have two names on the disk of this folder; tried with an empty file."""
    probes = [folder / "linked", folder / "link"]
    for probe in probes:
        remove_left(probe)
    own, other = (_hidden(probe, probe.name, "") for probe in probes)
    try:
        own.touch()
        os.link(own, other)
    except OSError:
        return False
    finally:
        remove_any(own)
        remove_any(other)
    return True


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file another name on the same disk, which takes no room; copy it to another disk.

    Only for files that are replaced, never changed in place: both names show the same bytes.
    """
    own = os.path.realpath(source)
    try:
        os.link(own, target)
    except OSError:
        shutil.copyfile(own, target)
