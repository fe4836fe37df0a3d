"""How alike two answers are, as gen-pairs measures it."""

import difflib
from collections import Counter

_RUN = 5


def alike(first: str, second: str, least: float) -> bool:
    """Whether the texts are at least this similar (0 to 1), case and spacing aside, by difflib's ratio.

    That takes time with the square of the length; most texts that are not alike are known by less.
    """
    a, b = normalised(first), normalised(second)
    both = len(a) + len(b)
    if 2 * min(len(a), len(b)) < least * both or _shared_runs(a, b) < _fewest_shared(both, least):
        return False
    matcher = difflib.SequenceMatcher(None, a, b, autojunk=False)
    return matcher.quick_ratio() >= least and matcher.ratio() >= least


def normalised(text: str) -> str:
    """The text without case and spacing."""
    return " ".join(text.casefold().split())


def _shared_runs(a: str, b: str) -> int:
    """How many runs of five characters stand in both, each as often as in the one that has fewer of it."""
    runs = (Counter(text[i : i + _RUN] for i in range(len(text) - _RUN + 1)) for text in (a, b))
    return (next(runs) & next(runs)).total()


def _fewest_shared(both: int, least: float) -> float:
    """Runs that texts of `both` characters together share if their ratio is at least `least`.

    Matching blocks then hold least/2 · both characters of either text, and (1 − least) · both characters are
    outside of them. Between two blocks stands one of these or more, so there is at most one block more than
    there are of them; and of a block all characters but the last four begin a run.
    """
    outside = (1 - least) * both
    return least / 2 * both - (_RUN - 1) * (outside + 1)
