"""Reading files: only plain files are read; every refusal of the system becomes an error with a remedy."""

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
"""Largest file that is read as one text: tokenizer.json of a large vocabulary has about 40 MB."""
_CHECK_PATH = "check the path; relative paths start at the current folder"
_LONGEST_SHOWN = 200
"""Most characters of a path that are shown; of a longer path, only both ends are shown."""


class NotPlainError(OSError):
    """A pipe, a socket or a device instead of a plain file: reading it may never end."""


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
    """Turn errors from reading `path` into errors for the user.

    Args:
        hint: the remedy if `path` is missing, or is not the expected kind of file.

    Raises:
        DpoError: instead of an OSError, or because no file can have such a name.
    """
    check_name(path)
    try:
        yield
    except OSError as error:
        raise unreadable(path, error, hint) from None


def read_text(path: Path | str, hint: str = "") -> str:
    """A whole file of UTF-8 text.

    Raises:
        DpoError: the file cannot be read, is not UTF-8 text, or has more than WHOLE_BYTES.
    """
    with opened(path, hint) as file:
        content = file.read(WHOLE_BYTES + 1)
    if len(content) > WHOLE_BYTES:
        what = f"is larger than {WHOLE_BYTES // 2**20} MB"
        raise DpoError(what, where=path_text(path), hint=hint or "give another file")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        hint = hint or "save the file as UTF-8"
        raise DpoError("is not UTF-8 text", where=path_text(path), hint=hint) from None


def read_json(path: Path | str, hint: str = "") -> Any:
    """The value in a JSON file.

    Raises:
        DpoError: as `read_text`; or the file is not JSON.
    """
    text = read_text(path, hint)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        known = isinstance(error, json.JSONDecodeError)
        what = error.msg if known else "a number is too long, or lists are nested too deeply"
        where = f"{path_text(path)}:{error.lineno}" if known else path_text(path)
        raise DpoError(f"not JSON: {what}", where=where, hint=hint or "write the file again") from None


def read_object(path: Path | str, hint: str = "") -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        DpoError: as `read_json`; or the value is not an object.
    """
    value = read_json(path, hint)
    if not isinstance(value, dict):
        raise DpoError("is not a JSON object", where=path_text(path), hint=hint or "write the file again")
    return value


def is_there(path: Path | str) -> bool:
    """Whether `path` exists; a broken link does not.

    Raises:
        DpoError: the system does not say. A folder that cannot be read is not an empty folder.
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
    """Files and folders in `folder` whose names match one of the patterns, sorted by name.

    Raises:
        DpoError: the folder cannot be read.
    """
    with readable(folder):
        names = sorted(os.listdir(folder))
    return [Path(folder) / n for n in names if any(fnmatch.fnmatchcase(n, p) for p in patterns)]


def entries(folder: Path | str) -> list[Path]:
    """Files and folders in `folder`, sorted by name; none if the folder does not exist.

    Raises:
        DpoError: the folder cannot be read, so it may not be empty.
    """
    return files_in(folder, "*") if is_there(folder) else []


def expanded(path: Path | str) -> Path:
    """`path` with a leading ~ replaced by the home folder.

    Raises:
        DpoError: there is no such user, or no file can have such a name.
    """
    check_name(path)
    try:
        return Path(path).expanduser()
    except RuntimeError:
        user = Path(path).parts[0]
        raise DpoError(
            f"there is no home folder for {path_text(user)}",
            where=path_text(path),
            hint=f"write the full path, or ./{path_text(path)} for a folder of that name in the current "
            "folder",
        ) from None


def check_name(path: Path | str) -> None:
    """Check that a file could have this name.

    Raises:
        DpoError: the name contains a NUL, or half of a character.
    """
    if fault := impossible(path):
        raise DpoError(f"{fault}, which no file name can contain", where=path_text(path), hint=_CHECK_PATH)


def path_text(path: Path | str) -> str:
    """A path for a message: on one line, without control characters, and not too long."""
    text = str(Path(path))
    if len(text) > _LONGEST_SHOWN:
        text = f"{text[: _LONGEST_SHOWN // 2]}...{text[-_LONGEST_SHOWN // 2 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def unreadable(path: Path | str, error: OSError, hint: str = "") -> DpoError:
    """What to raise when the system refuses to read `path`, with a remedy for the cause.

    Args:
        hint: the remedy if `path` is missing, or is not the expected kind of file.
    """
    what, remedy = (
        f"cannot be read: {error.strerror or error}",
        "check the disk of this file, then give the command again",
    )
    if isinstance(error, NotPlainError):
        what = "is not a plain file"
        remedy = hint or "files are read more than once: save the data as a plain file, and give its path"
    elif isinstance(error, IsADirectoryError):
        what, remedy = "is a folder, not a file", hint or "give the path of the file inside it"
    elif isinstance(error, FileNotFoundError):
        what, remedy = "no such file", hint or _CHECK_PATH
    elif isinstance(error, NotADirectoryError):
        remedy = hint or "a part of the path is a file, not a folder: check the path"
    elif isinstance(error, PermissionError):
        remedy = _permission(path, error)
    elif error.errno == errno.ELOOP:
        remedy = "the link leads back to itself: give the path of the file itself, or make the link again"
    elif error.errno == errno.ENAMETOOLONG:
        remedy = "the name is too long for a file: check the path"
    elif error.errno == errno.EIO:
        remedy = "the disk or the network failed: copy the file to another disk, or restore it from a backup"
    elif error.errno in (errno.EMFILE, errno.ENFILE):
        remedy = "too many files are open: close other programs, or raise the limit with ulimit -n 1024"
    return DpoError(what, where=path_text(path), hint=remedy)


def _permission(path: Path | str, error: OSError) -> str:
    """How to get permission to read `path`."""
    if sys.platform == "darwin" and error.errno == errno.EPERM:
        return "let your terminal read this folder: System Settings, Privacy & Security, Files and Folders"
    own = Path(path).absolute()
    for part in (*reversed(own.parents), own):
        wanted = (os.R_OK if part == own else 0) | (os.X_OK if os.path.isdir(part) else 0)
        if not os.access(part, wanted):
            break
    with suppress(OSError):
        if os.stat(part).st_uid == os.geteuid():
            return f"give yourself read permission: chmod u+rX {shlex.quote(path_text(part))}"
    return f"ask the owner of {path_text(part)} for read permission, or use your own copy"
