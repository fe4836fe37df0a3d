"""Output for people: results on stdout; messages and progress on stderr, a bar or a line in ten seconds."""

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

# Square brackets are text, not markup.
console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False, markup=False)

_LINE_SECONDS = 10.0

UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that control a terminal, reverse the direction of text, or cannot be encoded: none is shown.

Tabs and line breaks are shown unchanged.
"""


def printable(text: str) -> str:
    """The text with such characters as escapes: ESC as \\x1b, a change of direction as \\u202e."""
    return UNPRINTABLE.sub(lambda match: _escape(match[0]), text)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def json_text(value: Any, indent: int | None = None, *, only_ascii: bool = False) -> str:
    """JSON that reads back as the same value, without characters that control a terminal."""
    text = json.dumps(value, ensure_ascii=only_ascii, indent=indent)
    return UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def plural(count: int, noun: str, several: str = "") -> str:
    """A count with its noun: "1 row", "1,200 rows"; `several` is the plural if it needs more than an s."""
    return f"{count:,} {noun if count == 1 else several or noun + 's'}"


def show(text: str) -> None:
    """A result on stdout."""
    click.echo(printable(text))


def show_json(value: Any, indent: int | None = None) -> None:
    """A result on stdout, for a script; letters that stdout cannot encode are written as JSON escapes."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    click.echo(json_text(value, indent, only_ascii=not encoding.lower().startswith("utf")))


def say(text: str, style: str | None = None) -> None:
    """A message on stderr."""
    console.print(printable(text), style=style)


@contextmanager
def progress(label: str, total: int, unit: str, done: int = 0) -> Iterator[Callable[..., None]]:
    """Show work on `total` things; call the yielded function with how many more are done and a note.

    On a terminal this is a bar with the time left, elsewhere a line at most every ten seconds.
    """
    label = printable(label)
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(f"{unit} {{task.fields[note]}}", markup=False),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(label, total=total, completed=done, note="")
            yield lambda n, note="": bar.update(task, advance=n, note=note)
        return
    yield _lines(label, total, unit, done)


def _lines(label: str, total: int, unit: str, done: int) -> Callable[..., None]:
    last, finished = time.monotonic(), done
    first: tuple[float, int] | None = None

    def advance(n: int, note: str = "") -> None:
        nonlocal finished, first, last
        finished += n
        now = time.monotonic()
        if first is None and finished > done:
            first = now, finished
        if first is None or now - last < _LINE_SECONDS:
            return
        last = now
        left = seconds_left(first, (now, finished), total)
        told = [f"{finished}/{total} {unit}", note, "" if left is None else f"{left:.0f} s left"]
        say(f"{label}: {' '.join(filter(None, told))}")

    return advance


def seconds_left(first: tuple[float, int], now: tuple[float, int], total: int) -> float | None:
    """Seconds for the rest at the pace since the first report, as the bar computes them; None at the first.

    The time before the first report is left out. It includes the warm-up, and when many answers are sampled
    at the same time, the first one takes almost as long as all of them.

    Args:
        first, now: a report's time in seconds, and how many of `total` were done then.
    """
    seconds, finished = now[0] - first[0], now[1] - first[1]
    return (total - now[1]) * seconds / finished if finished else None
