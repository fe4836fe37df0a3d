"""Figures of a trained topic model: coherence and diversity of its top words, topics against labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DpoError
from ..storage.reading import is_there, path_text
from .clustering import nmi, purity
from .coherence import c_v
from .coherence import npmi as npmi_of
from .corpus import Corpus
from .diversity import distinct_diversity, topic_quality, unique_diversity
from .model_files import TEST_THETA, read_matrix
from .preference_files import list_of, read_rows

LENGTHS = (10, 15)
"""Top words of a topic that are looked at."""
FIGURES = (
    ("coherence C_V", "c_v"),
    ("coherence NPMI", "npmi"),
    ("diversity: words in one topic only", "unique"),
    ("diversity: different words", "distinct"),
    ("quality: C_V x different words", "quality"),
)
"""Names of the figures of top words for people, each with its field of WordFigures."""
TOP = "top_words_15.jsonl"
AGAIN = "train the model again, or evaluate it with the corpus that it was trained on"


@dataclass(frozen=True)
class WordFigures:
    """Figures of the first `words` top words of each topic; means over topics.

    `c_v`, `npmi`: on the training texts; None without texts. `unique`, `distinct`: the two
    diversities. `quality`: C_V times `distinct`. `c_v_of_topics`, `npmi_of_topics`: of each topic.
    """

    words: int
    c_v: float | None
    npmi: float | None
    unique: float
    distinct: float
    quality: float | None
    c_v_of_topics: list[float] | None
    npmi_of_topics: list[float] | None


@dataclass(frozen=True)
class LabelFigures:
    """The main topic of each held-out document against its label."""

    documents: int
    labels: int
    purity: float
    nmi: float


@dataclass(frozen=True)
class TopicFigures:
    """Everything about one model; `clustering` is None without labels of held-out documents."""

    topics: int
    top_words: list[WordFigures]
    clustering: LabelFigures | None

    def __str__(self) -> str:
        width = max(len(label) for label, _ in FIGURES)
        head = f"{f'{self.topics:,} topics':<{width}}" + "".join(
            f"  top {own.words}" for own in self.top_words
        )
        lines = [
            f"{label:<{width}}{''.join(_cell(getattr(own, name)) for own in self.top_words)}"
            for label, name in FIGURES
        ]
        return "\n".join([head, *lines, labels_text(self.clustering)])


def labels_text(found: LabelFigures | None) -> str:
    """Purity and NMI as a line."""
    if found is None:
        return "no labels of held-out documents: no purity, no NMI"
    return (
        f"{found.documents:,} held-out documents with {found.labels} labels: "
        f"purity {found.purity:.3f}, NMI {found.nmi:.3f}"
    )


def _cell(value: float | None) -> str:
    return f"{figure_text(value):>8}"


def figure_text(value: float | None) -> str:
    """A figure with three decimals; "-" if there is none."""
    return "-" if value is None else f"{value:.3f}"


def evaluate_topics(folder: Path, corpus: Corpus) -> TopicFigures:
    """The figures of the model in a run's folder.

    Args:
        corpus: the one that the model was trained on.

    Raises:
        DpoError: the run is not finished, or is of another corpus.
    """
    top = read_top_words(folder / TOP, corpus)
    figures = [word_figures(top[:, :length], corpus.texts, corpus.vocabulary) for length in LENGTHS]
    return TopicFigures(len(top), figures, label_figures(folder / TEST_THETA, corpus))


def word_figures(top: np.ndarray, texts: Sequence[str] | None, vocabulary: Sequence[str]) -> WordFigures:
    """The figures of top words, as vocabulary indices (K, n)."""
    cv = None if texts is None else c_v(texts, vocabulary, top)
    pairs = None if texts is None else npmi_of(texts, vocabulary, top)
    return WordFigures(
        top.shape[1],
        None if cv is None else float(cv.mean()),
        None if pairs is None else float(pairs.mean()),
        unique_diversity(top),
        distinct_diversity(top),
        None if cv is None else topic_quality(cv, top),
        None if cv is None else cv.tolist(),
        None if pairs is None else pairs.tolist(),
    )


def read_top_words(path: Path, corpus: Corpus) -> np.ndarray:
    """Vocabulary indices of the top words in a file, (K, n).

    Raises:
        DpoError: there is no such file, or it is of another corpus.
    """
    if not is_there(path):
        what = "has no top words: the run is not finished"
        raise DpoError(what, where=path.parent, hint="mlx-dpo topics train writes them at the end of a run")
    rows: list[list[int]] = []
    for where, row in read_rows(path, AGAIN):
        given = row.get("top_words")
        words = [pair for one in given for pair in one.items()] if list_of(given, dict) else []
        if not words or len(words) != len(rows[0] if rows else words):
            what = "top_words must be a list of words with their indices, of the same length for all topics"
            raise DpoError(what, where=where, hint=AGAIN)
        if any(type(index) is not int or corpus.number.get(word) != index for word, index in words):
            raise DpoError("has words that the corpus numbers otherwise", where=where, hint=AGAIN)
        rows.append([index for _, index in words])
    if not rows:
        raise DpoError("is empty", where=path_text(path), hint=AGAIN)
    return np.array(rows)


def label_figures(path: Path, corpus: Corpus) -> LabelFigures | None:
    """Topics of the held-out documents against their labels; None without labels.

    Args:
        path: shares of topics in documents, (documents, K).

    Raises:
        DpoError: it is of other documents.
    """
    if corpus.test is None or corpus.test.labels is None or not is_there(path):
        return None
    labels = corpus.test.labels
    theta = read_matrix(path, rows=len(labels), hint=AGAIN)
    clusters = theta.argmax(axis=1)
    return LabelFigures(
        len(labels), len(set(labels.tolist())), purity(labels, clusters), nmi(labels, clusters)
    )
