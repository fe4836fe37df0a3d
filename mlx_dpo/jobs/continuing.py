"""Whether a run continues: the checks that a run on pairs and the run of a topic model share.

A key holds everything that decides what a run computes, as plain values: `settings` by their dotted names,
and a fingerprint of each other part.
"""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..console import say
from ..errors import DpoError, first_ten
from ..storage.checksummed_folder import Sealed


def check_resumed(resume: bool, checkpoint: Sealed | None, folder: Path) -> None:
    """Check that there is a run to continue, if --resume asks for one.

    Raises:
        DpoError: there is none.
    """
    if resume and not checkpoint:
        raise DpoError(
            "has no checkpoint to resume from", where=folder, hint="leave out --resume to start a run"
        )


def would_replace(held: Sequence[str], folder: Path) -> DpoError:
    """The error for a folder without a run that has files or folders with the names of a run's."""
    return DpoError(
        f"contains {', '.join(held)}, which a run would replace",
        where=folder,
        hint="choose another folder with --output, or replace it with --overwrite",
    )


def check_unchanged(
    before: Mapping[str, Any], now: Mapping[str, Any], parts: Mapping[str, str], folder: Path, hint: str
) -> None:
    """Check that a run of key `before` may continue as a run of key `now`.

    Args:
        parts: the parts of a key besides its settings, each in words.

    Raises:
        DpoError: with all differences.
    """
    changed = [setting_change(name, before, now) for name in changed_settings(before, now, "")]
    changed += [f"{what} changed" for part, what in parts.items() if before[part] != now[part]]
    if changed:
        raise DpoError(
            f"the run in this folder was started differently: {first_ten(changed)}", where=folder, hint=hint
        )


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any], *prefixes: str) -> list[str]:
    """Names of the settings that differ and begin with one of these."""
    old, new = before["settings"], now["settings"]
    names = dict.fromkeys([*old, *new])
    return [name for name in names if name.startswith(prefixes) and old.get(name) != new.get(name)]


def setting_change(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """A changed setting in words: beta.value is 0.2, was 0.1."""
    new, old = (key["settings"].get(name) for key in (now, before))
    return f"{name} is {'null' if new is None else new}, was {'null' if old is None else old}"


def versions(*libraries: str) -> str:
    """The versions of these libraries, for a checkpoint."""
    return ", ".join(f"{name} {version(name)}" for name in libraries)


def say_if_changed(before: str, now: str) -> None:
    """Say if a run continues with other `versions` than it was started with."""
    if before != now:
        say(f"started with {before}, continuing with {now}: rounding may differ")
