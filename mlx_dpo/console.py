"""What a person sees on stderr while work goes on: one bar, or one line every ten seconds."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)

_LINE_SECONDS = 10.0


def say(text: str) -> None:
    """One line on stderr; square brackets are text, not markup."""
    console.print(text, markup=False)


@contextmanager
def progress(label: str, total: int, unit: str, done: int = 0) -> Iterator[Callable[..., None]]:
    """Show work on `total` things; call the yielded function with how many more are done and a note.

    On a terminal it is a bar with the time left; elsewhere a line at most every ten seconds.
    """
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(f"{unit} {{task.fields[note]}}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(label, total=total, completed=done, note="")
            yield lambda n, note="": bar.update(task, advance=n, note=note)
        return
    yield _lines(label, total, unit, done)


def _lines(label: str, total: int, unit: str, done: int) -> Callable[..., None]:
    start = last = time.monotonic()
    finished = 0

    def advance(n: int, note: str = "") -> None:
        nonlocal finished, last
        finished += n
        now = time.monotonic()
        if now - last < _LINE_SECONDS or not finished:
            return
        last = now
        left = (total - done - finished) * (now - start) / finished
        say(f"{label}: {done + finished}/{total} {unit} {note} {left:.0f} s left")

    return advance
