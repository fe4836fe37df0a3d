"""The one error for mistakes that a user can fix."""

from typing import Any

_LONGEST = 1500
"""Characters of a message: a list of ten places is shorter, but a value from a file may be very long."""

REPORT = "this is a bug in mlx_dpo or in the model's files: please report it with this message"
"""A remedy where neither settings nor rows are wrong."""


def cut_short(text: str, most: int = _LONGEST) -> str:
    """The text, without its middle if it has more than `most` characters."""
    half = (most - 3) // 2
    return text if len(text) <= most else f"{text[:half]} … {text[-half:]}"


class DpoError(Exception):
    """A mistake that a user can fix: what is wrong, where, and what to do.

    Args:
        what: one line, no full stop; the middle of a very long text is left out.
        where: "file:line", a setting's dotted name, or a path.
        hint: the remedy.
        code: names this kind of mistake for programs, such as "not-json"; every mistake in a row has one.
    """

    def __init__(self, what: str, *, where: str = "", hint: str = "", code: str = ""):
        what = cut_short(what)
        super().__init__(what)
        self.what, self.where, self.hint, self.code = what, str(where), hint, code

    def instead(
        self, *, what: str | None = None, where: str | None = None, hint: str | None = None
    ) -> "DpoError":
        """The same kind of mistake with another message, place or remedy."""
        return DpoError(
            self.what if what is None else what,
            where=self.where if where is None else where,
            hint=self.hint if hint is None else hint,
            code=self.code,
        )

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}\n  {self.hint}" if self.hint else head


def first_line(error: Exception) -> str:
    """The first line of another library's error message; its type if there is no message."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(" :") if lines else type(error).__name__


def quoted(value: Any, most: int = 80) -> str:
    """A value for a message: like `repr`, on one line, and cut if it is longer than `most`."""
    try:
        text = repr(value)
    except ValueError:  # Python does not write out whole numbers of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


def label(name: str) -> str:
    """A name for a message: unchanged, or quoted and shortened if it is long or cannot be printed."""
    return name if len(name) <= 80 and name.isprintable() else quoted(name)


def first_ten(items: list[str]) -> str:
    """Join up to ten items with commas; say how many more there are."""
    more = f" and {len(items) - 10} more" if len(items) > 10 else ""
    return ", ".join(items[:10]) + more
