"""Names of files and folders that no system accepts, found before any work is done."""

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
        return "contains half of a character"
    return "contains a NUL character" if b"\0" in encoded else ""


def path_fault(name: str) -> str:
    """What is wrong with this name of a file or folder, which need not exist; "" if nothing is."""
    if not name.strip():
        return "is not the name of a file or folder"
    if fault := impossible(name):
        return fault
    if any(unicodedata.category(character) == "Cc" for character in name):
        return "contains a control character"
    try:
        encoded = name.encode()
    except UnicodeEncodeError:  # of bytes on the command line
        return "is not UTF-8 text"
    if len(encoded) > _LONGEST_PATH or any(len(part) > _LONGEST_NAME for part in encoded.split(b"/")):
        return "is too long for the name of a file"
    if name.startswith("~") and os.path.expanduser(name).startswith("~"):
        return "names a user that this machine does not have"
    try:
        os.stat(os.path.expanduser(name))
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
            return f"cannot be followed: {os.strerror(error.errno)}"
    return ""


def found_beside(name: str, folder: str) -> str:
    """`name`, or its path in `folder` if it is relative and found there but not from the current folder."""
    beside = os.path.join(folder, name)
    return beside if not os.path.exists(name) and os.path.exists(beside) else name
