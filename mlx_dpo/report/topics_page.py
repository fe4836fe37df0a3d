"""A topic model's run as one self-contained HTML page."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .charts import Chart, Mark, Row, Series, drawn, mark_words, points
from .templates import Setting, by_default, filled

PARTS = ("reconstruction", "kl", "ecr", "dpo", "anchor")
_TITLES = (
    "Reconstruction of the words",
    "KL divergence from the prior",
    "Embedding clustering regularisation",
    "Preferences between words (DPO)",
    "Change of the other topics since the snapshot",
)
_CHARTS = (
    Chart("loss", "Loss", "nats per document", (Series("loss", "train", "blue"),), "epoch"),
    *(
        Chart(part, title, "weighted", (Series(f"loss/{part}", "train", "blue"),), "epoch")
        for part, title in zip(PARTS, _TITLES, strict=True)
    ),
    Chart(
        "speed", "Speed", "documents per second", (Series("documents_per_second", "train", "blue"),), "epoch"
    ),
)


class Word(NamedTuple):
    """A top word. `share`: how much of the word belongs to the topic, in [0, 1].

    `preference`: "win", "lose" or "". `moved`: whether the word is in only one of the two lists.
    """

    text: str
    share: float
    preference: str = ""
    moved: bool = False


@dataclass(frozen=True)
class Topic:
    """A topic's words at the end of a run and, if it was improved, at the snapshot.

    `coherence`: C_V of these lists in the same order, without those that are not known.
    """

    number: int
    lists: list[tuple[str, list[Word]]]
    coherence: str = ""
    meaning: str | None = None
    score: int | None = None


class SeedsTable(NamedTuple):
    """Figures over runs with different seeds: `rows` below `head`, and what they are."""

    seeds: int
    about: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]


@dataclass(frozen=True)
class TopicsRecord:
    """What the page shows. `figures`: rows of a table below `head`; the first cell names the figure.

    `snapshot`: the epoch after which preferences were used, or None.
    """

    name: str
    heading: str
    summary: list[str]
    settings: list[Setting]
    rows: list[Row]
    head: tuple[str, ...]
    figures: list[tuple[str, ...]]
    improved: list[Topic]
    others: list[Topic]
    snapshot: int | None = None
    seeds: SeedsTable | None = None


def topics_page(run: TopicsRecord) -> str:
    """The report as HTML. Equal runs give equal text."""
    marks = [] if run.snapshot is None else [Mark(run.snapshot, "preferences")]
    shown = [chart for chart in _CHARTS if points(run.rows, chart.series[0].metric, "epoch")[0]]
    return filled(
        "topics.html.j2",
        run=run,
        heading=run.heading,
        summary=run.summary,
        largest=_largest(run.improved + run.others),
        drawings=drawn(shown, run.rows, marks),
        marks=[mark_words(mark.kind) for mark in marks],
        **by_default(run.settings),
    )


def _largest(topics: Sequence[Topic]) -> float:
    """The largest share on the page, above 0: the length of the longest bar."""
    shares = [word.share for topic in topics for _, words in topic.lists for word in words]
    return max([1e-9, *shares])
