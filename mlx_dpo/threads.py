"""Work in several threads, of which Ctrl-C loses nothing that is under way."""

import queue
import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from .console import say

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    done: Callable[[int, Result], None],
    count: int,
    stop: threading.Event,
    patience_seconds: float,
) -> None:
    """Do the work in `count` threads; an item is taken when another is done.

    Ctrl-C waits for work that is under way, since its replies are paid for; a second one does not wait. The
    work itself must keep its results: `done` is not called for what ends after Ctrl-C.

    Args:
        done: called in this thread with index and result, as results come.
        stop: set when no more items are taken, so that work of several parts can stop between them.
        patience_seconds: how long to wait for work that is under way.

    Raises:
        the first error of the work or of `done`; KeyboardInterrupt.
    """
    entries, lock, ended = enumerate(items), threading.Lock(), queue.SimpleQueue()

    def take() -> None:
        try:
            while not stop.is_set():
                with lock:
                    entry = next(entries, None)
                if entry is None:
                    break
                ended.put((entry[0], work(entry[1]), None))
        except BaseException as error:  # raised again in the caller's thread
            ended.put((0, None, error))
        ended.put(None)

    threads = [threading.Thread(target=take, daemon=True) for _ in range(count)]
    try:
        for thread in threads:
            thread.start()
        running = count
        while running:
            if (found := ended.get()) is None:
                running -= 1
                continue
            index, result, error = found
            if error is not None:
                raise error
            done(index, result)
    except BaseException as error:  # raised again, when the other threads have stopped
        stop.set()
        if isinstance(error, KeyboardInterrupt):
            say("stopping after the replies that are under way; press Ctrl-C again to stop at once")
        until = time.monotonic() + patience_seconds
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        raise
