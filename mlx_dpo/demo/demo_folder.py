"""What both demos share: the shipped files, the folder they write, commands for the current folder."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import DpoError
from ..printed_commands import command_line
from ..storage.files import check_writable, make_folder


def shipped(name: str) -> Path:
    """A file of data/ or config/: beside the package in a checkout, inside the package when installed."""
    package = Path(__file__).resolve().parents[1]
    inside = package / f"_{name}"  # as pyproject.toml puts them into the wheel
    return inside if inside.exists() else package.parent / name


def empty_folder(folder: Path, parts: Sequence[str], overwrite: bool) -> None:
    """Make the folder, without these parts of an earlier demo.

    Raises:
        DpoError: it has such parts, and they are not to be overwritten; or it cannot be written.
    """
    check_writable(folder, need_bytes=200_000_000)
    old = [folder / name for name in parts]
    if any(part.exists() for part in old):
        if not overwrite:
            raise DpoError(
                "contains a demo already",
                where=folder,
                hint="choose another folder with --output, or replace it with --overwrite",
            )
        for part in old:
            shutil.rmtree(part, ignore_errors=True)
    make_folder(folder)


def activation() -> list[str]:
    """Lines that say how to activate the environment, if this is one, and a blank line."""
    activate = Path(sys.prefix) / "bin" / "activate"
    return [f"Before the commands below: {command_line(['.', from_here(activate)])}", ""] * activate.exists()


def from_here(path: Path) -> str:
    """A path for a command in the current folder: relative if it is below that folder."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
