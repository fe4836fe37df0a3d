"""Score columns of a row: whether they agree that the chosen answer is better."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import cut_short
from .defects import KINDS, WARNING, Defect, Kind, defect

TIE, AGAINST = "scores-tie", "scores-against"
_MEND = "remove the row, or make the answer with the higher score the chosen one"
KINDS[TIE] = Kind(WARNING, "both answers have the same score, so the label is arbitrary", _MEND)
KINDS[AGAINST] = Kind(WARNING, "the rejected answer has the higher score", _MEND)

_SCORE = re.compile("score|rating|reward|grade|quality")
"""Parts of the names of columns in which more is better; not counts, ranks or log-probabilities."""


def of_scores(row: Mapping[str, Any], where: str) -> list[Defect]:
    """Defects of the scores in a row of the file, or in its `meta`; each kind at most once.

    {"score_chosen": 4, "score_rejected": 4}  ->  scores-tie
    """
    found = {}
    for columns in (row, row.get("meta")):
        for name, other in _scores(columns if isinstance(columns, dict) else {}):
            chosen, rejected = columns[name], columns[other]
            name, other = cut_short(name, 60), cut_short(other, 60)
            if chosen == rejected:
                found.setdefault(TIE, f"{name} and {other} are both {chosen}")
            elif chosen < rejected:
                found.setdefault(AGAINST, f"{name} is {chosen}, {other} is {rejected}")
    return [defect(where, code, what) for code, what in found.items()]


def _scores(columns: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Pairs of score columns: one for the chosen and one for the rejected answer."""
    names = {name.lower(): name for name in columns}
    for low, name in names.items():
        other = names.get(low.replace("chosen", "rejected"))
        scores = "chosen" in low and other and _SCORE.search(low)
        if scores and _is_number(columns[name]) and _is_number(columns[other]):
            yield name, other


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
