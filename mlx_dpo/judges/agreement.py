"""How far a judge agrees with people: votes on pairs, agreement, Cohen's kappa."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..console import plural
from ..errors import DpoError
from ..metrics import wilson_interval
from .verdicts import FIRST, SECOND, TIE, Comparison

_OUTCOMES = (FIRST, SECOND, TIE)
_RESAMPLES = 2000


Texts = tuple[str, frozenset[str]]
"""A prompt and two answers, in any order."""


class Asked(NamedTuple):
    """Two answers to a prompt that a person votes on, and the comparison of the judge."""

    prompt: str
    comparison: Comparison

    @property
    def texts(self) -> "Texts":
        """What a vote is found by."""
        return self.prompt.strip(), frozenset([self.comparison.first, self.comparison.second])


@dataclass(frozen=True)
class Agreement:
    """Verdicts of the judge and of a person on the same `n` pairs.

    `kappa`: Cohen 1960; None where both always give the same one verdict. The 95 % intervals are Wilson's for
    the agreement, and from 2,000 resamples of the pairs for kappa.
    """

    n: int
    same: int
    agreement_interval: tuple[float, float]
    kappa: float | None
    kappa_interval: tuple[float, float] | None

    def __str__(self) -> str:
        low, high = self.agreement_interval
        text = (
            f"{plural(self.n, 'vote')}: you and the judge agree on {self.same} "
            f"({self.same / self.n:.3f}, 95 % interval {low:.3f}-{high:.3f})"
        )
        if self.kappa is None or self.kappa_interval is None:
            return f"{text}; kappa is undefined, since all verdicts are the same"
        low, high = self.kappa_interval
        return f"{text}; Cohen's kappa {self.kappa:.3f} (95 % interval {low:.3f} to {high:.3f})"


def agreement(pairs: Sequence[tuple[str, str]], seed: int = 0) -> Agreement:
    """How far two raters agree.

    Args:
        pairs: the two verdicts on each pair: "first", "second" or "tie".

    Raises:
        ValueError: no pairs, or another verdict.
    """
    codes = np.array([[_OUTCOMES.index(one), _OUTCOMES.index(other)] for one, other in pairs])
    same = int((codes[:, 0] == codes[:, 1]).sum()) if len(codes) else 0
    interval = wilson_interval(same, len(codes))
    generator = np.random.default_rng(seed)
    found = (_kappa(codes[generator.integers(0, len(codes), len(codes))]) for _ in range(_RESAMPLES))
    defined = [value for value in found if value is not None]
    kappa = _kappa(codes)
    low, high = np.percentile(defined, [2.5, 97.5]) if defined else (0.0, 0.0)
    return Agreement(len(codes), same, interval, kappa, None if kappa is None else (float(low), float(high)))


def _kappa(codes: np.ndarray) -> float | None:
    """(observed - expected) / (1 - expected) of verdicts (n, 2); None if both gave only one verdict."""
    observed = (codes[:, 0] == codes[:, 1]).mean()
    shares = [np.bincount(codes[:, rater], minlength=len(_OUTCOMES)) / len(codes) for rater in (0, 1)]
    expected = float(shares[0] @ shares[1])
    return None if expected >= 1 else float((observed - expected) / (1 - expected))


def read_vote(row: Mapping[str, Any], where: str) -> tuple[Texts, str | None]:
    """One line {"prompt": ..., "answers": [one, other], "vote": 1, 2 or "tie"}.

    Returns:
        the texts, and the preferred answer; None for a tie.

    Raises:
        DpoError: the line is not a vote.
    """
    prompt, answers, vote = row.get("prompt"), row.get("answers"), str(row.get("vote"))
    texts = isinstance(answers, list) and len(answers) == 2 and all(isinstance(one, str) for one in answers)
    if not texts or not isinstance(prompt, str) or vote not in ("1", "2", TIE):
        raise DpoError(
            "is not a vote",
            where=where,
            hint='each line needs {"prompt": "...", "answers": ["...", "..."], "vote": 1, 2 or "tie"}',
            code="not-a-vote",
        )
    one, other = (answer.strip() for answer in answers)
    return (prompt.strip(), frozenset([one, other])), {"1": one, "2": other}.get(vote)


def matched(asked: Iterable[Asked], votes: Mapping[Texts, str | None]) -> list[tuple[str, str]]:
    """(verdict of the judge, verdict of the person) of each pair that has a vote and a readable verdict."""
    pairs = []
    for one in asked:
        if one.texts in votes and one.comparison.outcome:
            text = votes[one.texts]
            person = TIE if text is None else FIRST if text == one.comparison.first else SECOND
            pairs.append((one.comparison.outcome, person))
    return pairs
