"""What a run's preferences changed: topics at the snapshot, and at the end of the run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from ..metrics import student_half_width
from ..storage.reading import is_there
from .corpus import Corpus
from .evaluation import AGAIN, TOP, LabelFigures, WordFigures, evaluate_topics, read_top_words, word_figures
from .model_files import BETA, read_matrix
from .preference_files import (
    DESCRIPTIONS,
    PREFERENCES,
    SCORES,
    SELECTED,
    read_descriptions,
    read_preferences,
    read_scores,
    read_selected,
)
from .preferences import read_logits
from .top_words import log_beta, top_words
from .win_lose import WinLose

Value = TypeVar("Value")


@dataclass(frozen=True, eq=False)
class Moment:
    """Topics at one moment: top words as vocabulary indices (K, n), their β (K, n), and their figures."""

    words: np.ndarray
    shares: np.ndarray
    figures: list[WordFigures]

    @property
    def c_v(self) -> np.ndarray | None:
        """C_V of each topic, (K,), of the longest lists; None for a corpus without texts."""
        return _array(self.figures[-1].c_v_of_topics)

    @property
    def npmi(self) -> np.ndarray | None:
        """NPMI of each topic, as `c_v`."""
        return _array(self.figures[-1].npmi_of_topics)


def _array(values: list[float] | None) -> np.ndarray | None:
    return None if values is None else np.array(values)


@dataclass(frozen=True, eq=False)
class Changes:
    """A finished run. `snapshot` is None for a run without preferences.

    `improved`: preferences of the topics that they were used for. `scores`, `meanings`: what was said about
    each topic, where something was.
    """

    end: Moment
    clustering: LabelFigures | None
    snapshot: Moment | None = None
    improved: Mapping[int, WinLose] = field(default_factory=dict)
    scores: Mapping[int, int | None] = field(default_factory=dict)
    meanings: Mapping[int, str | None] = field(default_factory=dict)

    @property
    def others(self) -> list[int]:
        """The topics without preferences."""
        return [k for k in range(len(self.end.words)) if k not in self.improved]


def read_changes(folder: Path, preferences: Path, corpus: Corpus) -> Changes:
    """The topics of a run.

    Args:
        preferences: the folder with the run's snapshot.
        corpus: the one that the model was trained on.

    Raises:
        DpoError: the run is not finished, is of another corpus, or a file is broken.
    """
    found = evaluate_topics(folder, corpus)
    words = read_top_words(folder / TOP, corpus)
    beta = read_matrix(folder / BETA, rows=len(words), columns=len(corpus.vocabulary), hint=AGAIN)
    end = Moment(words, np.take_along_axis(beta, words, axis=1), found.top_words)
    if not is_there(preferences / SELECTED):
        return Changes(end, found.clustering)
    logits = read_logits(preferences, len(corpus.vocabulary))
    chosen = read_preferences(preferences / PREFERENCES, len(logits), corpus.number)
    picked = read_selected(preferences / SELECTED, len(logits), chosen)
    return Changes(
        end,
        found.clustering,
        _at_snapshot(logits, corpus, found.top_words),
        {k: chosen[k] for k in picked},
        _if_there(preferences / SCORES, read_scores, len(logits)),
        _if_there(preferences / DESCRIPTIONS, read_descriptions, len(logits)),
    )


def _at_snapshot(logits: np.ndarray, corpus: Corpus, like: Sequence[WordFigures]) -> Moment:
    """The topics of a snapshot, with figures of lists as long as these."""
    scores = log_beta(logits)
    words = top_words(scores, max(own.words for own in like))
    figures = [word_figures(words[:, : own.words], corpus.texts, corpus.vocabulary) for own in like]
    return Moment(words, np.exp(np.take_along_axis(scores, words, axis=1)), figures)


def _if_there(path: Path, read: Callable[[Path, int], dict[int, Value]], topics: int) -> dict[int, Value]:
    return read(path, topics) if is_there(path) else {}


class MeanChange(NamedTuple):
    """Means over topics, and the mean change with its 95 % interval; no interval for a single topic."""

    topics: int
    before: float
    after: float
    low: float | None
    high: float | None

    @property
    def change(self) -> float:
        """After minus before."""
        return self.after - self.before


def mean_change(before: np.ndarray, after: np.ndarray, topics: Sequence[int]) -> MeanChange:
    """The change of a figure of these topics, paired by topic.

    The interval is Student's. It takes topics as independent, which they are not quite: they share words. It
    says nothing about other seeds.

    Args:
        before, after: (K,).
        topics: at least one.
    """
    own = list(topics)
    changes = after[own] - before[own]
    means = len(own), float(before[own].mean()), float(after[own].mean())
    if len(own) < 2:
        return MeanChange(*means, None, None)
    half, middle = student_half_width(changes), float(changes.mean())
    return MeanChange(*means, middle - half, middle + half)


def kept_words(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Share of each topic's top words that are still among them, (K,).

    [[0, 1]], [[1, 2]] -> [0.5]
    """
    return np.array([np.isin(was, now).mean() for was, now in zip(before, after, strict=True)])
