"""The one error for what a user can mend."""


class DpoError(Exception):
    """A mistake outside this program: what is wrong, where, and what to do about it.

    Args:
        what: one line, no full stop.
        where: "file:line", a setting's dotted name, or a path.
        hint: the remedy.
    """

    def __init__(self, what: str, *, where: str = "", hint: str = ""):
        super().__init__(what)
        self.what, self.where, self.hint = what, str(where), hint

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}\n  {self.hint}" if self.hint else head


def first_line(error: Exception) -> str:
    """What another library's error says, on one line; its kind where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(" :") if lines else type(error).__name__


def first_ten(items: list[str]) -> str:
    """Join up to ten items with commas; say how many more there are."""
    more = f" and {len(items) - 10} more" if len(items) > 10 else ""
    return ", ".join(items[:10]) + more
