"""Results kept between runs that can be made again: a cache entry is complete, or it is made again.

<cache>/<kind>/<name>/          one entry: its files, and entry.json with their checksums
<cache>/<kind>/<name>.lock      exists while a process makes the entry
<cache>/hashes/<name>.json      checksum of a large file, valid while its size, times and inode stay the same
"""

import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ..console import say
from ..errors import DpoError, first_line, quoted
from .checksummed_folder import DAMAGE, Sealed, digest, seal, sha256, unseal
from .files import check_writable, make_folder, remove_any, unwritable, write_text
from .locks import BusyError, locked
from .names import path_fault
from .reading import expanded, is_there, readable, unreadable

VARIABLE = "MLX_DPO_CACHE"
_ENTRY, _HASHES = "entry.json", "hashes"
_HINT = f"set {VARIABLE} to a writable folder on a disk with enough space"
_UNUSED_SECONDS = 60 * 24 * 3600
"""Entries unused for sixty days are removed when a new entry is made."""

_LARGE = 2**20
"""Smaller files are hashed again each time: that costs less than storing their checksum."""
_TICK_SECONDS = 2.0
"""A file that changes twice within a clock tick may keep its times; the coarsest tick is 2 seconds (FAT)."""


def cache_folder() -> Path:
    """The folder that MLX_DPO_CACHE names, else ~/.cache/mlx_dpo; it may be deleted at any time."""
    name = os.environ.get(VARIABLE) or "~/.cache/mlx_dpo"
    if fault := path_fault(name):
        raise DpoError(f"{quoted(name)} {fault}", where=VARIABLE, hint=_HINT)
    return expanded(name).absolute()


Entry = Sealed
"""An entry of the cache."""


def kept(
    kind: str,
    key: Mapping[str, Any],
    write: Callable[[Path], dict[str, Any]],
    label: str,
    need_bytes: int = 0,
) -> Entry:
    """The entry of `key`; `write` makes it if it is missing or damaged.

    Args:
        write: fills a folder and returns facts for JSON; if it raises, nothing is left behind.
        label: name of the entry in messages.
        need_bytes: space that the disk must have.
    """
    entry = find(kind, key, label)
    if entry is None:
        with alone(kind, key, label):
            entry = find(kind, key, label) or keep(kind, key, write, need_bytes)
    return entry


def find(kind: str, key: Mapping[str, Any], label: str) -> Entry | None:
    """The entry of `key`, checked; None if there is none. A damaged entry is removed, with a message."""
    folder = entry_folder(kind, key)
    with _of_the_cache(folder):
        if not (is_there(folder) or folder.is_symlink()):
            return None
    try:
        entry = _read(folder, key)
    except DAMAGE as error:
        say(f"{label}: {folder} is damaged ({first_line(error)}) and will be made again")
        remove(kind, key)
        return None
    except OSError as error:
        raise DpoError(unreadable(folder, error).what, where=folder, hint=_HINT) from None
    with suppress(OSError):
        os.utime(folder / _ENTRY)  # when it was last used
    _remove_left_lock(_lock_of(folder))
    return entry


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _remove_left_lock(lock: Path) -> None:
    """Remove the lock of a process that was killed when the entry was complete; a held one stays."""
    if lock.exists():
        with suppress(OSError, BusyError), locked(lock):
            pass


def keep(
    kind: str, key: Mapping[str, Any], write: Callable[[Path], dict[str, Any]], need_bytes: int = 0
) -> Entry:
    """Make the missing entry of `key`: completely, or not at all.

    Raises:
        DpoError: the cache cannot be written, or has no space.
    """
    folder = entry_folder(kind, key)
    with _of_the_cache(folder):
        check_writable(folder, need_bytes)
        entry = seal(folder, _ENTRY, lambda beside: {"key": dict(key), "facts": write(beside)})
    for place in (folder.parent, cache_folder() / _HASHES):
        _remove_unused(place)
    return _of_key(entry)


def _remove_unused(folder: Path) -> None:
    """Remove entries that no run has used for a long time, and equally old leftovers of killed processes."""
    for path in folder.glob("*"):
        with suppress(OSError):
            stamp = path / _ENTRY if (path / _ENTRY).exists() else path
            if stamp.stat().st_mtime < time.time() - _UNUSED_SECONDS:
                remove_any(path)


def remove(kind: str, key: Mapping[str, Any]) -> None:
    """Remove the entry of `key`, if there is one."""
    remove_any(entry_folder(kind, key))


@contextmanager
def alone(kind: str, key: Mapping[str, Any], label: str) -> Iterator[None]:
    """Wait until no other process makes the entry of `key`; leftovers of a killed process are removed."""
    folder = entry_folder(kind, key)
    lock = _lock_of(folder)
    with _of_the_cache(folder):
        _make_private(folder.parent)
        check_writable(folder)
    with ExitStack() as stack:
        try:
            stack.enter_context(
                locked(lock, lambda: say(f"{label}: waiting for another run that is preparing it"))
            )
        except OSError as error:
            raise unwritable_cache(lock, error) from None
        for left in folder.parent.glob(f".{folder.name}.*"):
            shutil.rmtree(left, ignore_errors=True)
        yield


def _make_private(folder: Path) -> None:
    """Make a folder of the cache that only its owner can read: it contains the user's texts, as tokens."""
    new = not cache_folder().exists()
    make_folder(folder)
    if new:
        cache_folder().chmod(0o700)


@contextmanager
def _of_the_cache(folder: Path) -> Iterator[None]:
    """Give errors about `folder` the remedy for the cache."""
    try:
        yield
    except DpoError as error:
        if error.where not in (str(folder), str(folder.parent)):
            raise
        raise error.instead(hint=_HINT) from None


def unwritable_cache(path: Path, error: OSError) -> DpoError:
    """What to raise when the system refuses to write `path`, a file of the cache."""
    return DpoError(unwritable(path, error).what, where=path, hint=_HINT)


def entry_folder(kind: str, key: Mapping[str, Any]) -> Path:
    """The folder of the entry of `key`, whether it exists or not."""
    return cache_folder() / kind / digest(key)[:32]


def _read(folder: Path, key: Mapping[str, Any]) -> Entry:
    """The entry in `folder`; raises as `unseal`."""
    entry = unseal(folder, _ENTRY, _content_hash)
    if entry.facts["key"] != json.loads(json.dumps(dict(key))):
        raise ValueError(f"{_ENTRY} differs from what was written")
    return _of_key(entry)


def _of_key(entry: Sealed) -> Entry:
    return entry._replace(facts=entry.facts["facts"])


def content_hash(path: Path | str) -> str:
    """SHA-256 of a file's content, in hex.

    A large file is read once and then recognised by path, size, both times and inode. Only the system can set
    the time of the last change of any kind (ctime), so other content with the old date is noticed.

    Raises:
        DpoError: it cannot be read.
    """
    with readable(path):
        return _content_hash(path)


def _content_hash(path: Path | str) -> str:
    """As `content_hash`, but raises the system's own errors."""
    path = Path(os.path.realpath(path))
    seen = file_state(path)
    if seen["size"] < _LARGE:
        return sha256(path)
    note = cache_folder() / _HASHES / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:32]}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(note.read_text())
        if known["state"] == seen:
            return known["sha256"]
    begun = time.time()
    found = sha256(path)
    if is_settled(seen, begun) and file_state(path) == seen:
        with suppress(DpoError):  # without the note, only the next start is slower
            _make_private(note.parent)
            write_text(note, json.dumps({"state": seen, "sha256": found}))
    return found


def is_settled(state: Mapping[str, Any], now: float) -> bool:
    """Whether a change of the file from now on, in seconds since 1970, shows in its state."""
    return max(state["mtime_ns"], state["ctime_ns"]) / 1e9 < now - _TICK_SECONDS


def file_state(path: Path) -> dict[str, Any]:
    """What tells one content of a file from a later one without reading it."""
    found = path.stat()
    return {
        "path": str(path),
        "size": found.st_size if stat.S_ISREG(found.st_mode) else 0,
        "mtime_ns": found.st_mtime_ns,
        "ctime_ns": found.st_ctime_ns,
        "inode": found.st_ino,
    }
