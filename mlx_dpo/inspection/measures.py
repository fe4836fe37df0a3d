"""Figures of a set of pairs, each with its n."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..metrics import distinct_n
from ..records import Preference
from .surface_features import Separability, separability
from .words import RUN, words

SAMPLE = 2_000
"""Number of pairs whose texts are examined, spread evenly over the file."""


@dataclass(frozen=True)
class LengthBias:
    """Whether length in tokens alone tells which answer is chosen.

    `chosen_longer`: share of pairs whose chosen answer has more tokens than the rejected one. `median_ratio`:
    chosen to rejected, from the median of its logarithm. `accuracy`: share of pairs in which `rule`, "longer"
    or "shorter", finds the chosen answer; answers of equal length count half.
    """

    n: int
    chosen_longer: float
    median_ratio: float
    rule: str
    accuracy: float


def length_bias(sizes: np.ndarray) -> LengthBias | None:
    """For pairs with these tokens in prompt, chosen and rejected, int (n, 3); None if n is 0."""
    chosen, rejected = sizes[:, 1].astype(np.float64), sizes[:, 2].astype(np.float64)
    if not len(sizes):
        return None
    longer = float((chosen > rejected).mean())
    right = longer + float((chosen == rejected).mean()) / 2
    return LengthBias(
        n=len(sizes),
        chosen_longer=longer,
        median_ratio=float(np.exp(np.median(np.log(chosen / rejected)))),
        rule="longer" if right >= 0.5 else "shorter",
        accuracy=max(right, 1 - right),
    )


@dataclass(frozen=True)
class Repetition:
    """Share of distinct runs of four words, distinct-4: means over n pairs."""

    n: int
    chosen: float
    rejected: float


def repetition(texts: Sequence[Preference]) -> Repetition | None:
    """For the pairs in which both answers have at least four words; None if there are none."""
    shares = [[distinct_n(words(answer), RUN) for answer in (text.chosen, text.rejected)] for text in texts]
    known = np.array([pair for pair in shares if None not in pair], np.float64)
    return Repetition(len(known), *map(float, known.mean(axis=0))) if len(known) else None


@dataclass(frozen=True)
class Likelihood:
    """Log-probability of the answers under the reference, in nats per token: means over n pairs.

    `off_policy`: how much less likely the chosen answers are than the rejected ones. `chosen_less_likely`:
    share of pairs whose chosen answer is less likely per token than the rejected one.
    """

    n: int
    chosen: float
    rejected: float
    off_policy: float
    chosen_less_likely: float


def likelihood(scores: np.ndarray, sizes: np.ndarray) -> Likelihood | None:
    """From log-probabilities (n, 2), nats, of chosen and rejected, and sizes (n, 3); None if n is 0."""
    if not len(scores):
        return None
    mean = scores.astype(np.float64) / sizes[:, 1:]
    chosen, rejected = (float(column.mean()) for column in mean.T)
    less = float((mean[:, 0] < mean[:, 1]).mean())
    return Likelihood(len(mean), chosen, rejected, rejected - chosen, less)


@dataclass(frozen=True)
class OwnAnswers:
    """Log-probability of rejected answers, and of answers that the model itself gives to n of the prompts.

    `rejected`, `sampled`: nats per token, means over the prompts.
    """

    n: int
    rejected: float
    sampled: float

    @property
    def less_likely(self) -> float:
        """Nats per token by which the rejected answers are less likely."""
        return self.sampled - self.rejected


@dataclass(frozen=True)
class Figures:
    """Figures of a set of `pairs` pairs; None where there is no figure, as for an empty set or no model."""

    pairs: int
    lengths: LengthBias | None
    style: Separability | None
    repetition: Repetition | None
    likelihood: Likelihood | None
    own: OwnAnswers | None = None


class Pairs(Protocol):
    """`PairStore` or `FoundPairs`: pairs with their sizes, int32 (n, 3), and their rows of text."""

    @property
    def sizes(self) -> np.ndarray: ...
    @property
    def texts(self) -> Sequence[Preference]: ...
    def __len__(self) -> int: ...


def figures(
    pairs: Pairs, likely: Likelihood | None, sample: int = SAMPLE, own: OwnAnswers | None = None
) -> Figures:
    """Lengths of all pairs; style and repetition of a sample of them.

    Args:
        likely: as measured; None without a model.
        sample: largest number of pairs in the sample, spread evenly.
        own: as measured; None without a model.
    """
    count = len(pairs)
    rows = np.linspace(0, count - 1, min(sample, count)).round().astype(int).tolist()
    texts = pairs.texts
    some = [texts[row] for row in rows]
    return Figures(count, length_bias(pairs.sizes), separability(some), repetition(some), likely, own)
