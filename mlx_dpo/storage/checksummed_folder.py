"""Folders that are complete or missing: one of their files has the size and SHA-256 of all others."""

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from ..console import progress
from .files import replace_folder
from .reading import open_plain

DAMAGE = (
    *(FileNotFoundError, IsADirectoryError, NotADirectoryError),
    *(ValueError, LookupError, TypeError, AttributeError, RecursionError),
)
"""Errors from reading a damaged folder; other errors of the system do not mean damage."""

_BLOCK, _SLOW = 2**20, 2**28


class Sealed(NamedTuple):
    """A folder whose files are unchanged, the facts stored with it, and the SHA-256 of its files by name."""

    folder: Path
    facts: dict[str, Any]
    sums: dict[str, str]


def seal(
    folder: Path, name: str, write: Callable[[Path], Mapping[str, Any]], *, over: bool = False
) -> Sealed:
    """Let `write` fill a folder beside `folder`, then seal and rename it.

    Args:
        name: name of the file for the checksums and for the facts (for JSON) that `write` returns.
        over: see `replace_folder`.

    Raises:
        DpoError: the disk refused to write.
    """
    body: dict[str, Any] = {}

    def whole(beside: Path) -> None:
        facts = write(beside)
        files = {f.name: [f.stat().st_size, sha256(f)] for f in sorted(beside.iterdir())}
        body.update(facts=json.loads(json.dumps(dict(facts))), files=files)
        (beside / name).write_text(json.dumps({**body, "sum": digest(body)}, indent=1))

    replace_folder(folder, whole, over=over)
    return _sealed(folder, body)


def unseal(folder: Path, name: str, checksum: Callable[[Path], str]) -> Sealed:
    """The sealed folder, after a check of all its files.

    Raises:
        one of DAMAGE: the folder is damaged.
        OSError: the folder cannot be read.
    """
    with open_plain(folder / name) as file:
        body = json.loads(file.read())
    if not isinstance(body, dict) or body.pop("sum") != digest(body):
        raise ValueError(f"{name} differs from what was written")
    for file, (size, expected) in body["files"].items():
        path = folder / file
        if path.stat().st_size != size:
            raise ValueError(f"{file} has {path.stat().st_size:,} bytes, not {size:,}")
        if checksum(path) != expected:
            raise ValueError(f"{file} differs from what was written")
    return _sealed(folder, body)


def _sealed(folder: Path, body: dict[str, Any]) -> Sealed:
    return Sealed(folder, body["facts"], {name: own for name, (_, own) in body["files"].items()})


def digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of plain values, in hex."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    own, size = hashlib.sha256(), path.stat().st_size
    bar = (
        progress(f"reading {path.name}", size // 2**20, "MB") if size > _SLOW else nullcontext(lambda n: None)
    )
    with open_plain(path) as file, bar as advance:
        while block := file.read(_BLOCK):
            own.update(block)
            advance(len(block) // 2**20)
    return own.hexdigest()
