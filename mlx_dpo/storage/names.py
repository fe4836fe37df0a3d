"""Names of files and folders: what no system can take, told before any work is done for it."""

import errno
import os
import unicodedata

_LONGEST_NAME, _LONGEST_PATH = 255, 4096
"""Bytes that the usual systems allow."""


def impossible(name: os.PathLike[str] | str) -> str:
    """What keeps any file from having this name; "" where nothing does."""
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError:
        return "holds half of a character"
    return "holds a NUL character" if b"\0" in encoded else ""


def path_fault(name: str) -> str:
    """Why a user's name of a file or folder is refused, whether it is there or not; "" where it is not."""
    if not name.strip():
        return "names no file or folder"
    if fault := impossible(name):
        return fault
    if any(unicodedata.category(character) == "Cc" for character in name):
        return "holds a control character"
    try:
        encoded = name.encode()
    except UnicodeEncodeError:  # of bytes on the command line
        return "is not UTF-8 text"
    if len(encoded) > _LONGEST_PATH or any(len(part) > _LONGEST_NAME for part in encoded.split(b"/")):
        return "is longer than a file's name can be"
    if name.startswith("~") and os.path.expanduser(name).startswith("~"):
        return "names a user whom this machine does not have"
    try:
        os.stat(os.path.expanduser(name))
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
            return f"cannot be followed: {os.strerror(error.errno)}"
    return ""


def found_beside(name: str, folder: str) -> str:
    """`name`, or where it lies in `folder` if it is relative and not found from the current folder."""
    beside = os.path.join(folder, name)
    return beside if not os.path.exists(name) and os.path.exists(beside) else name
