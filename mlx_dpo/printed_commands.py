"""Commands to paste into a shell: words are quoted, settings read back unchanged, new folders are unused."""

import itertools
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from .console import UNPRINTABLE, json_text

_YAML = re.compile(r"""['"\[#]|\s|(?:null|~)?$""", re.IGNORECASE)
"""Texts that `--set` would not read as plain text: by how they begin, or as a whole."""


_ESCAPED = re.compile(r"[\n\t]|" + UNPRINTABLE.pattern)
"""Characters that a shell would act on when they are pasted, even within quotes."""


def command_line(words: Iterable[str]) -> str:
    """The words as one line for a shell; control characters as bash and zsh read them, $'a\\x1bb'."""
    return " ".join(_quoted(word) for word in words)


def path_word(path: Path | str) -> str:
    """A path for other programs' commands: "./-x" for "-x", which would be read as an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)


def _quoted(word: str) -> str:
    if not _ESCAPED.search(word):
        return shlex.quote(word)
    text = word.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + _ESCAPED.sub(_bytes, text) + "'"


def _bytes(match: re.Match[str]) -> str:
    # By bytes: bash 3.2, which macOS has, knows no \u.
    return "".join(f"\\x{byte:02x}" for byte in match[0].encode("utf-8", "surrogateescape"))


def assignment(name: str, value: str | Sequence[str] | None) -> str:
    """The argument of `--set` that gives the setting this text, list of texts, or null."""
    if value is None:
        return f"{name}=null"
    if not isinstance(value, str):
        return f"{name}={json_text(list(value))}"
    plain = not _YAML.match(value) and value == value.strip()
    return f"{name}={value if plain else json_text(value)}"


def last_ones(assignments: Sequence[str]) -> Iterator[str]:
    """The assignments, without those that a later one of the same name replaces."""
    names = [one.partition("=")[0].strip() for one in assignments]
    return (one for place, one in enumerate(assignments) if names[place] not in names[place + 1 :])


def unused_folder(name: Path | str, used: Iterable[Path | str] = ()) -> str:
    """The folder's name, or the name with -2, -3, ...: the first that does not exist.

    Args:
        used: folders that must not be taken although they may not exist yet.
    """
    taken = {Path(path).absolute() for path in used}
    names = itertools.chain([str(name)], (f"{name}-{number}" for number in itertools.count(2)))
    return next(name for name in names if Path(name).absolute() not in taken and not os.path.lexists(name))


def fuse_command(folder: Path | str, model: str | None = None) -> str:
    """Fuse a run into a folder beside it.

    Args:
        model: where the base model is now, if it has moved since the run was made.
    """
    words = ["mlx-dpo", "fuse", "--run", str(folder), "--output", beside(folder, "fused")]
    return command_line([*words, *(["--model", model] if model else [])])


def beside(folder: Path | str, what: str, used: Iterable[Path | str] = ()) -> str:
    """An unused folder beside this one: "runs/dpo" and "sft" give "runs/dpo-sft"."""
    path = Path(folder)
    if path.name in ("", ".."):  # only the full path of such a folder has a name
        path = path.resolve()
    return unused_folder(path.with_name(f"{path.name}-{what}"), used)
