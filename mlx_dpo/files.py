"""Files that are whole or not there: write beside, fsync, rename; and checks before slow work."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import DpoError


def write_text(path: Path, text: str) -> None:
    """Write text beside `path`, flush it to the disk, rename it into place."""
    with_replacement(path, lambda beside: beside.write_text(text, encoding="utf-8"))


def with_replacement(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` make a file beside `path` (same suffix), then fsync and rename it to `path`."""
    path = Path(path)
    make_folder(path.parent)
    beside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        write(beside)
        sync(beside)
        os.replace(beside, path)
        sync(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from None
    finally:
        beside.unlink(missing_ok=True)


def replace_folder(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a folder beside `path`, then fsync and rename it to `path`, which must be free."""
    path = Path(path)
    make_folder(path.parent)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.mkdir()
        write(beside)
        for file in beside.iterdir():
            sync(file)
        os.rename(beside, path)
        sync(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)


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
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from None


def check_writable(folder: Path, need_bytes: int = 0) -> None:
    """Check, before slow work and without leaving anything, that `folder` can take `need_bytes`.

    Raises:
        DpoError: no permission, a file in the way, or not enough room.
    """
    existing = Path(folder).absolute()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise DpoError(
            f"{existing} is a file" if existing != Path(folder).absolute() else "is a file, not a folder",
            where=folder,
            hint="choose another output folder",
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise DpoError(
            f"no permission to write in {existing}", where=folder, hint="choose another output folder"
        )
    free = shutil.disk_usage(existing).free
    if free < need_bytes:
        raise DpoError(
            f"needs {need_bytes / 1e9:.2f} GB, the disk has {free / 1e9:.2f} GB left",
            where=folder,
            hint="free some space, or choose an output folder on another disk",
        )


def _unwritable(path: Path, error: OSError) -> DpoError:
    return DpoError(
        f"cannot be written: {error.strerror or error}",
        where=path,
        hint="free some space or choose another output folder; what was there before is untouched",
    )
