"""The way in for every file: plain files only, and whatever the system refuses is said with its remedy."""

import errno
import fnmatch
import json
import os
import shlex
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import DpoError
from .names import impossible

WHOLE_BYTES = 2**28
"""Largest file that is read as one text: tokenizer.json of large vocabularies has some 40 MB."""
_CHECK_PATH = "check the path, relative to this folder"
_LONGEST_SHOWN = 200
"""Characters of a path that are shown; of a longer one its two ends are."""


class NotPlainError(OSError):
    """A pipe, a socket or a device where a plain file is wanted: reading it may never end."""


def open_plain(path: Path | str) -> BinaryIO:
    """The file, open for reading bytes.

    Raises:
        NotPlainError: a pipe, a socket or a device.
        OSError: it cannot be opened.
    """
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise NotPlainError(errno.EINVAL, "not a plain file")
    return open(path, "rb")


@contextmanager
def opened(path: Path | str, hint: str = "") -> Iterator[BinaryIO]:
    """The file, open for reading bytes; errors as for `readable`."""
    with readable(path, hint), open_plain(path) as file:
        yield file


@contextmanager
def readable(path: Path | str, hint: str = "") -> Iterator[None]:
    """Say of `path` why it cannot be read.

    Args:
        hint: the remedy where `path` is missing, or is not what is wanted.

    Raises:
        DpoError: in place of an OSError, or because nothing can have such a name.
    """
    check_name(path)
    try:
        yield
    except OSError as error:
        raise unreadable(path, error, hint) from None


def read_text(path: Path | str, hint: str = "") -> str:
    """A whole file of UTF-8 text.

    Raises:
        DpoError: it cannot be read, is no such text, or has more than WHOLE_BYTES.
    """
    with opened(path, hint) as file:
        content = file.read(WHOLE_BYTES + 1)
    if len(content) > WHOLE_BYTES:
        what = f"has more than {WHOLE_BYTES // 2**20} MB"
        raise DpoError(what, where=path_text(path), hint=hint or "name another file")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        hint = hint or "save the file as UTF-8"
        raise DpoError("is not UTF-8 text", where=path_text(path), hint=hint) from None


def read_json(path: Path | str, hint: str = "") -> Any:
    """The value in a JSON file.

    Raises:
        DpoError: as `read_text`; or it is not JSON.
    """
    text = read_text(path, hint)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        known = isinstance(error, json.JSONDecodeError)
        what = error.msg if known else "a number too long or lists too deep"
        where = f"{path_text(path)}:{error.lineno}" if known else path_text(path)
        raise DpoError(f"not JSON: {what}", where=where, hint=hint or "write the file again") from None


def read_object(path: Path | str, hint: str = "") -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        DpoError: as `read_json`; or it is another value.
    """
    value = read_json(path, hint)
    if not isinstance(value, dict):
        raise DpoError("is not a JSON object", where=path_text(path), hint=hint or "write the file again")
    return value


def is_there(path: Path | str) -> bool:
    """Whether something lies at `path`; a link that leads nowhere is nothing.

    Raises:
        DpoError: the system does not tell. A folder that may not be read is not an empty one.
    """
    with readable(path):
        try:
            os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
    return True


def is_folder(path: Path | str) -> bool:
    """Whether `path` is a folder; errors as for `is_there`."""
    return is_there(path) and os.path.isdir(path)


def files_in(folder: Path | str, *patterns: str) -> list[Path]:
    """What lies in `folder` under a name that fits one of the patterns, in the order of names.

    Raises:
        DpoError: the folder cannot be read.
    """
    with readable(folder):
        names = sorted(os.listdir(folder))
    return [Path(folder) / n for n in names if any(fnmatch.fnmatchcase(n, p) for p in patterns)]


def entries(folder: Path | str) -> list[Path]:
    """What a folder holds, in the order of names; nothing where there is no such folder.

    Raises:
        DpoError: the folder cannot be read; it is not an empty one.
    """
    return files_in(folder, "*") if is_there(folder) else []


def expanded(path: Path | str) -> Path:
    """`path` with a leading ~ spelt out.

    Raises:
        DpoError: there is no such user, or nothing can have such a name.
    """
    check_name(path)
    try:
        return Path(path).expanduser()
    except RuntimeError:
        user = Path(path).parts[0]
        raise DpoError(
            f"there is no home folder of {path_text(user)}",
            where=path_text(path),
            hint=f"write the path in full, or ./{path_text(path)} for a folder of that name here",
        ) from None


def check_name(path: Path | str) -> None:
    """Check that a file could have this name.

    Raises:
        DpoError: it holds a NUL, or half of a character.
    """
    if fault := impossible(path):
        raise DpoError(f"{fault}, which no file has in its name", where=path_text(path), hint=_CHECK_PATH)


def path_text(path: Path | str) -> str:
    """A path as it can be printed: on one line, without control characters, not endless."""
    text = str(Path(path))
    if len(text) > _LONGEST_SHOWN:
        text = f"{text[: _LONGEST_SHOWN // 2]}...{text[-_LONGEST_SHOWN // 2 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def unreadable(path: Path | str, error: OSError, hint: str = "") -> DpoError:
    """What to raise when the system refused to read `path`, with the remedy for its reason.

    Args:
        hint: the remedy where it is missing, or is not what is wanted.
    """
    what, remedy = f"cannot be read: {error.strerror or error}", "check the disk that it lies on, run again"
    if isinstance(error, NotPlainError):
        what = "is not a plain file"
        remedy = hint or "files are read more than once: write what comes from there to a file, and name that"
    elif isinstance(error, IsADirectoryError):
        what, remedy = "is a folder, not a file", hint or "name the file inside it"
    elif isinstance(error, FileNotFoundError):
        what, remedy = "no such file", hint or _CHECK_PATH
    elif isinstance(error, NotADirectoryError):
        remedy = hint or "a part of the path is a file, not a folder: check the path"
    elif isinstance(error, PermissionError):
        remedy = _permission(path, error)
    elif error.errno == errno.ELOOP:
        remedy = "the link leads back to itself: name the file itself, or make the link anew"
    elif error.errno == errno.ENAMETOOLONG:
        remedy = "no file has so long a name: check the path"
    elif error.errno == errno.EIO:
        remedy = "the disk or the network failed: copy the file to another disk, from a backup if need be"
    elif error.errno in (errno.EMFILE, errno.ENFILE):
        remedy = "too many files are open: close other programs, or raise the limit with ulimit -n 1024"
    return DpoError(what, where=path_text(path), hint=remedy)


def _permission(path: Path | str, error: OSError) -> str:
    """How to get the right to read `path`."""
    if sys.platform == "darwin" and error.errno == errno.EPERM:
        return "allow your terminal this folder: System Settings, Privacy & Security, Files and Folders"
    own = Path(path).absolute()
    for part in (*reversed(own.parents), own):
        wanted = (os.R_OK if part == own else 0) | (os.X_OK if os.path.isdir(part) else 0)
        if not os.access(part, wanted):
            break
    with suppress(OSError):
        if os.stat(part).st_uid == os.geteuid():
            return f"give yourself the right to read it: chmod u+rX {shlex.quote(path_text(part))}"
    return f"ask the owner of {path_text(part)} for the right to read it, or use a copy of your own"
