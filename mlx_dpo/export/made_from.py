"""What an exported folder says of its run, so that its model card shows the figures of that run."""

import json
import os
from pathlib import Path
from typing import NamedTuple

from ..errors import DpoError, quoted
from ..models.adapters import WEIGHTS
from ..storage.checksummed_folder import sha256
from ..storage.reading import is_there, read_object
from .file_lists import KINDS

FILE = "made_from.json"
"""In the folder of every export; it never leaves the machine."""
_AGAIN = "make the folder again, with mlx-dpo fuse or mlx-dpo export"


class MadeFrom(NamedTuple):
    """`kind`: one of KINDS; `run`: the run's folder; `adapter`: SHA-256 of its weights' file."""

    kind: str
    run: Path
    adapter: str


def write_made_from(folder: Path, output: Path | str, kind: str, run: Path | str) -> None:
    """Write the file into `folder`, which is going to be `output`.

    The run's folder is named relative to the output, so that no absolute path is in an export.
    """
    place = os.path.relpath(os.path.realpath(run), os.path.realpath(output))
    content = {"kind": kind, "run": place, "adapter_sha256": sha256(Path(run) / WEIGHTS)}
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
    if not all(isinstance(value, str) for value in told):
        raise DpoError("has no kind, run or adapter_sha256", where=path, hint=_AGAIN)
    kind, run, adapter = told
    if kind not in KINDS:
        raise DpoError(f"has the unknown kind {quoted(kind)}", where=path, hint=_AGAIN)
    return MadeFrom(kind, Path(os.path.normpath(os.path.realpath(folder) + os.sep + run)), adapter)


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
