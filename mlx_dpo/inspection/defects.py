"""The kinds of defects of a row: each has a code, a meaning and a remedy."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

ERROR, WARNING = "error", "warning"


class Kind(NamedTuple):
    """`severity`: a run refuses or drops a row with an ERROR, and trains on a row with a WARNING.

    `remedy` is "" if the run's own message has one.
    """

    severity: str
    meaning: str
    remedy: str = ""


KINDS: dict[str, Kind] = {}
"""All kinds by code. The files that find the defects fill it, for example `answer_checks.py`."""


class Defect(NamedTuple):
    """One finding: `file`:`line`, the code of its kind, what is wrong there and what to do about it."""

    file: str
    line: int
    code: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}"


def defect(where: str, code: str, what: str, remedy: str = "") -> Defect:
    """A finding at "file:line"; by default with the remedy of its kind."""
    file, _, line = where.rpartition(":")
    return Defect(file, int(line), code, what, remedy or KINDS[code].remedy)


def counted(defects: Iterable[Defect]) -> dict[str, int]:
    """The number of defects of each kind, the most frequent kind first."""
    found = Counter(d.code for d in defects)
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def of_severity(found: Mapping[str, int], severity: str) -> dict[str, int]:
    """The counts of one severity."""
    return {code: count for code, count in found.items() if KINDS[code].severity == severity}
