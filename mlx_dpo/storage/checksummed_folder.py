"""Folders that are whole or not there: one of their files holds the size and SHA-256 of all others."""

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
"""What reading a damaged folder raises; other errors of the system say nothing about the folder."""

_BLOCK, _SLOW = 2**20, 2**28


class Sealed(NamedTuple):
    """A folder whose files are those that were written; facts noted then; the files' SHA-256 by name."""

    folder: Path
    facts: dict[str, Any]
    sums: dict[str, str]


def seal(
    folder: Path, name: str, write: Callable[[Path], Mapping[str, Any]], *, over: bool = False
) -> Sealed:
    """Let `write` fill a folder beside `folder`, then seal and rename it.

    Args:
        name: of the file that holds what `write` returns, facts for JSON, and the checksums.
        over: see `replace_folder`.

    Raises:
        DpoError: the disk refused.
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
    """The sealed folder, every file of it checked.

    Raises:
        one of DAMAGE: it is damaged.
        OSError: it cannot be read.
    """
    with open_plain(folder / name) as file:
        body = json.loads(file.read())
    if not isinstance(body, dict) or body.pop("sum") != digest(body):
        raise ValueError(f"{name} is not what was written")
    for file, (size, expected) in body["files"].items():
        path = folder / file
        if path.stat().st_size != size:
            raise ValueError(f"{file} has {path.stat().st_size:,} bytes, not {size:,}")
        if checksum(path) != expected:
            raise ValueError(f"{file} is not what was written")
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
