"""A topic model as one HTML page: its topics with bars, before and after preferences, and its figures."""

from collections.abc import Sequence
from typing import NamedTuple

from ..console import plural
from ..report.templates import rendered
from .evaluation import FIGURES, LabelFigures, WordFigures, labels_text

_TEMPLATE = "topics.html.j2"


class Word(NamedTuple):
    """A top word: its share in the topic, 0 to 1, and whether it came among them after the snapshot."""

    text: str
    share: float
    new: bool = False


class Topic(NamedTuple):
    """One topic. `about`: its description and score; `changed`: preferences were used for it.

    `gone`: top words of the snapshot that are none any more.
    """

    number: int
    words: list[Word]
    about: str = ""
    changed: bool = False
    gone: Sequence[str] = ()


class TopicsRecord(NamedTuple):
    """A run. `before`: figures of the snapshot, None for a run without preferences."""

    name: str
    topics: list[Topic]
    after: WordFigures
    before: WordFigures | None
    labels: LabelFigures | None
    documents: int
    vocabulary: int


def topics_page(run: TopicsRecord) -> str:
    """The page as HTML. Equal runs give equal text."""
    figures = [("before preferences", run.before), ("after", run.after)]
    columns = figures if run.before else [("", run.after)]
    counts = (
        plural(len(run.topics), "topic"),
        plural(run.vocabulary, "word"),
        plural(run.documents, "document"),
    )
    return rendered(
        _TEMPLATE,
        name=run.name,
        heading=" · ".join(counts),
        columns=columns,
        figures=[(label, [_cell(getattr(own, key)) for _, own in columns]) for label, key in FIGURES],
        clustering=labels_text(run.labels),
        guided=run.before is not None,
        topics=run.topics,
    )


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
