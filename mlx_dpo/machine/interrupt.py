"""Ctrl-C and SIGTERM stop between micro-batches, so that nothing is half-done; a second one stops at once."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from ..console import say


class Stop(KeyboardInterrupt):
    """A requested stop that comes between two micro-batches: no update is half-done."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


def tell(stop: KeyboardInterrupt, text: str) -> None:
    """Say what was kept at an interrupt, and remember that it was said."""
    say(text)
    stop.told = True


def was_told(stop: BaseException | None) -> bool:
    """Whether `tell` was called for this interrupt."""
    return getattr(stop, "told", False)


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """Within it, SIGTERM raises Terminated, so that it is handled like Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def between_micro_batches(checkpoints: Path) -> Iterator[Callable[[], None]]:
    """Yield a function that raises Stop if a stop was requested since the last call.

    Args:
        checkpoints: the folder of the run's checkpoints. An interrupt is passed on after saying what is saved
            there, and how to continue.
    """
    with _stop_requests() as check:
        try:
            yield check
        except KeyboardInterrupt as stop:
            saved = "everything so far is saved" if isinstance(stop, Stop) else "the last checkpoint is"
            again = "run the same command again, without --overwrite, to continue"
            tell(stop, f"interrupted: {saved} in {checkpoints}; {again}")
            raise


@contextmanager
def _stop_requests() -> Iterator[Callable[[], None]]:
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None  # only the main thread may set handlers
        return
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        restore()
        say("stopping after this micro-batch; press Ctrl-C again to stop at once")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def check() -> None:
        if asked:
            raise Stop

    try:
        yield check
    finally:
        restore()
