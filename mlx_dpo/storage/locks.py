"""One process at a time: a lock that the system releases when its process ends, however it ends."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

_WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
"""Errors of a file system without locks: the work then continues without a lock."""


class BusyError(Exception):
    """Another process holds the lock."""


@contextmanager
def locked(file: Path, wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock `file`, which is made for the block and removed after it.

    Args:
        wait: called before waiting for the process that holds the lock; None: do not wait.

    Raises:
        BusyError: another process holds the lock.
        OSError: the file cannot be made.
    """
    lock = FileLock(file, fallback_to_soft=False)
    try:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            if wait is None:
                raise BusyError from None
            wait()
            lock.acquire()
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
    try:
        yield
    finally:
        if lock.is_locked:
            try:
                with suppress(OSError):  # a disk that became read-only
                    file.unlink(
                        missing_ok=True
                    )  # still held: a waiting process sees that it is gone, and makes another
            finally:
                lock.release()
