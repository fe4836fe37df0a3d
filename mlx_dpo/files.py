"""Files that are whole or not there: write beside, fsync, rename; and checks before slow work."""

import errno
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from .errors import DpoError, first_line
from .storage.reading import check_name, is_there, shown


def write_text(path: Path, text: str) -> None:
    """Write text beside `path`, flush it to the disk, rename it into place."""
    with_replacement(path, lambda beside: beside.write_text(text, encoding="utf-8"))


def with_replacement(
    path: Path, write: Callable[[Path], Any], first: Callable[[], None] = lambda: None
) -> None:
    """Let `write` make a file beside `path` (same suffix), then fsync and rename it to `path`.

    Args:
        first: called when the new file is whole, before it takes the old one's place.
    """
    path = Path(path)
    make_folder(path.parent)
    beside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        write(beside)
        sync(beside)
        first()
        os.replace(beside, path)
        sync(path.parent)
    except (OSError, RuntimeError) as error:  # a full disk is a RuntimeError where MLX writes
        raise unwritable(path, error) from None
    finally:
        with suppress(OSError):  # a read-only disk refuses this too, and has said so
            beside.unlink()


def replace_folder(path: Path, write: Callable[[Path], Any], *, over: bool = False) -> None:
    """Let `write` fill a folder beside `path`, then fsync and rename it to `path`, which must be free.

    Args:
        over: a folder that is there goes when the new one is whole; for a moment `path` is not there.
    """
    path = Path(path)
    make_folder(path.parent)
    beside, before = (path.with_name(f".{path.name}.{os.getpid()}{end}") for end in ("", ".before"))
    try:
        beside.mkdir()
        write(beside)
        for file in (*beside.iterdir(), beside):
            sync(file)
        if over and path.exists():
            os.rename(path, before)
        os.rename(beside, path)
        sync(path.parent)
    except (OSError, RuntimeError) as error:
        raise unwritable(path, error) from None
    finally:
        for left in (beside, before):
            shutil.rmtree(left, ignore_errors=True)


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
    """Check, before slow work and without leaving anything, that `folder` can take `need_bytes`.

    Raises:
        DpoError: no permission, a file in the way, or not enough room.
    """
    existing = Path(folder).absolute()
    while not is_there(existing):
        existing = existing.parent
    if not existing.is_dir():
        raise DpoError(
            f"{existing} is a file" if existing != Path(folder).absolute() else "is a file, not a folder",
            where=folder,
            hint="choose another output folder",
        )
    try:
        # Permission bits alone do not tell: the disk may be read-only, the system may guard the folder.
        os.rmdir(tempfile.mkdtemp(prefix=".", dir=existing))
    except OSError as error:
        raise DpoError(
            f"cannot write in {existing}: {error.strerror}",
            where=folder,
            hint="choose another output folder",
        ) from None
    free = shutil.disk_usage(existing).free
    if free < need_bytes:
        raise DpoError(
            f"needs {need_bytes / 1e9:.2f} GB, the disk has {free / 1e9:.2f} GB left",
            where=folder,
            hint="free some space, or choose an output folder on another disk",
        )


def unwritable(path: Path, error: OSError | RuntimeError) -> DpoError:
    """What to raise when the system refused to write `path`."""
    remedy = "free some space or choose another output folder"
    if isinstance(error, PermissionError):
        folder = shlex.quote(shown(Path(path).parent))
        remedy = (
            f"give yourself the right to write there (chmod u+wx {folder}) or choose another output folder"
        )
    elif getattr(error, "errno", None) in (errno.EROFS, errno.ENAMETOOLONG):
        remedy = "choose another output folder"
    return DpoError(
        f"cannot be written: {getattr(error, 'strerror', None) or first_line(error)}",
        where=shown(path),
        hint=f"{remedy}; what was there before is untouched",
    )
