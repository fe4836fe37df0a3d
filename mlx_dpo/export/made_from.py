"""What an exported folder says of its run, so that its model card shows the figures of that run."""

import json
import os
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DpoError, quoted
from ..models.adapters import WEIGHTS
from ..storage.checksummed_folder import sha256
from ..storage.reading import entries, is_there, read_object
from .file_lists import KINDS

FILE = "made_from.json"
"""In the folder of every export; it never leaves the machine."""
_AGAIN = "make the folder again, with mlx-dpo fuse or mlx-dpo export"


_EDITED = ("*config.json", "Modelfile")
"""Small files that a user may change after the export: they only have to be there."""


class MadeFrom(NamedTuple):
    """`kind`: one of KINDS; `run`: the run's folder; `adapter`: SHA-256 of its weights' file.

    `files`: size and SHA-256 of every file of the export, by name. `checks`: what was found out about the
    export, in words: `proof` in the program that reads it, `compared` with the adapter.
    """

    kind: str
    run: Path
    adapter: str
    files: Mapping[str, tuple[int, str]]
    checks: Mapping[str, str]


def write_made_from(
    folder: Path, output: Path | str, kind: str, run: Path | str, checks: Mapping[str, str] | None = None
) -> None:
    """Write the file into `folder`, which is complete and going to be `output`.

    The run's folder is named relative to the output, so that no absolute path is in an export.

    Args:
        checks: as in `MadeFrom`.
    """
    place = os.path.relpath(os.path.realpath(run), os.path.realpath(output))
    content: dict[str, Any] = {"kind": kind, "run": place, "adapter_sha256": sha256(Path(run) / WEIGHTS)}
    content["checks"] = dict(checks or {})
    content["files"] = {file.name: [file.stat().st_size, sha256(file)] for file in entries(folder)}
    (folder / FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_made_from(folder: Path) -> MadeFrom | None:
    """What the folder says; None if it has no such file.

    Raises:
        DpoError: the file is damaged.
    """
    path = folder / FILE
    if not is_there(path):
        return None
    content = read_object(path, _AGAIN)
    told = [content.get(name) for name in ("kind", "run", "adapter_sha256")]
    files, checks = content.get("files"), content.get("checks")
    named = isinstance(files, dict) and isinstance(checks, dict)
    if not named or not all(isinstance(value, str) for value in told):
        raise DpoError("has no kind, run, adapter_sha256, checks or files", where=path, hint=_AGAIN)
    kind, run, adapter = told
    if kind not in KINDS:
        raise DpoError(f"has the unknown kind {quoted(kind)}", where=path, hint=_AGAIN)
    place = Path(os.path.normpath(os.path.realpath(folder) + os.sep + run))
    return MadeFrom(kind, place, adapter, {name: tuple(own) for name, own in files.items()}, checks)


def check_made_from(folder: Path, made: MadeFrom, run: Path) -> None:
    """Check that `run` has the adapter from which `folder` was made.

    Raises:
        DpoError: it has another adapter, or none.
    """
    if not is_there(run / WEIGHTS):
        raise DpoError(
            f"was made from the run {run}, which is not there",
            where=folder,
            hint="say where the run is now: --run FOLDER",
        )
    if sha256(run / WEIGHTS) != made.adapter:
        raise DpoError(
            f"was made from another adapter than the one in {run}",
            where=folder,
            hint=f"name its run with --run FOLDER; if that run was trained on, {_AGAIN}",
        )


def check_files(folder: Path, made: MadeFrom) -> None:
    """Check that the files that may leave the machine are those that the export wrote.

    Raises:
        DpoError: one is missing or damaged, or there are other weights.
    """
    kind = KINDS[made.kind]
    listed = {name: own for name, own in made.files.items() if _matches(name, *kind.weights, *kind.others)}
    for name, (size, expected) in listed.items():
        path = folder / name
        if not is_there(path):
            raise DpoError("is missing from the export", where=path, hint=_AGAIN, code="damaged")
        if _matches(name, *_EDITED):
            continue
        if path.stat().st_size != size or sha256(path) != expected:
            raise DpoError("differs from what the export wrote", where=path, hint=_AGAIN, code="damaged")
    for path in entries(folder):
        if _matches(path.name, *kind.weights) and path.name not in listed:
            raise DpoError("was not written by the export", where=path, hint=_AGAIN, code="damaged")


def _matches(name: str, *patterns: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
