"""The command topics report: report.html of a topic model's run, from the files of its folder."""

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ..errors import DpoError
from ..storage.files import write_text
from ..storage.jsonl import read_jsonl
from ..storage.reading import is_there, opened
from ..topics.corpus import Corpus
from ..topics.evaluation import LENGTHS, TOP, label_figures, read_top_words, word_figures
from ..topics.model_files import BETA, TEST_THETA
from ..topics.page import Topic, TopicsRecord, Word, topics_page
from ..topics.preference_files import DESCRIPTIONS, SCORES, SELECTED, read_descriptions, read_scores
from .report import REPORT
from .topics_evaluate import corpus_of
from .topics_folder import PREFERENCES

_SHOWN = LENGTHS[0]
"""Top words of a topic on the page."""


def report_topics(folder: Path, corpus: str | None = None) -> Path:
    """Write `folder`/report.html; no model is loaded.

    Args:
        corpus: where the corpus is now; None: where it was.

    Raises:
        DpoError: the folder has no finished run, the corpus is another one, or jinja2 is missing.
    """
    if not find_spec("jinja2"):
        raise DpoError("needs jinja2", where="mlx-dpo topics report", hint="pip install 'mlx-dpo[report]'")
    page = topics_page(_record(folder, corpus_of(folder, corpus)))
    write_text(folder / REPORT, page)
    return folder / REPORT


def _record(folder: Path, corpus: Corpus) -> TopicsRecord:
    top, snapshot = read_top_words(folder / TOP, corpus), folder / PREFERENCES / TOP
    before = read_top_words(snapshot, corpus) if is_there(snapshot) else None
    return TopicsRecord(
        Path(os.path.realpath(folder)).name,
        _topics(folder, corpus, top, before),
        word_figures(top, corpus.texts, corpus.vocabulary),
        None if before is None else word_figures(before, corpus.texts, corpus.vocabulary),
        label_figures(folder / TEST_THETA, corpus),
        corpus.bags.shape[0],
        len(corpus.vocabulary),
    )


def _topics(folder: Path, corpus: Corpus, top: np.ndarray, before: np.ndarray | None) -> list[Topic]:
    with opened(folder / BETA) as file:
        beta = np.load(file, allow_pickle=False)
    about, changed = _about(folder / PREFERENCES, len(top)), _selected(folder / PREFERENCES / SELECTED)
    found = []
    for k, own in enumerate(top[:, :_SHOWN].tolist()):
        old = own if before is None else before[k, :_SHOWN].tolist()
        words = [Word(corpus.vocabulary[i], float(beta[k, i]), i not in old) for i in own]
        gone = [corpus.vocabulary[i] for i in old if i not in own]
        found.append(Topic(k, words, about[k], k in changed, gone))
    return found


def _about(folder: Path, topics: int) -> list[str]:
    """Description and score of each topic, where there are any."""
    texts, scores = [""] * topics, [""] * topics
    if is_there(folder / DESCRIPTIONS):
        texts = [text or "" for text in read_descriptions(folder / DESCRIPTIONS, topics).values()]
    if is_there(folder / SCORES):
        read = read_scores(folder / SCORES, topics).values()
        scores = ["" if score is None else f"score {score} of 3" for score in read]
    return [", ".join(filter(None, pair)) for pair in zip(texts, scores, strict=True)]


def _selected(path: Path) -> set[int]:
    return {row["k"] for _, row in read_jsonl(path)} if is_there(path) else set()
