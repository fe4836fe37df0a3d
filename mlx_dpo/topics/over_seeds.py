"""Figures of finished runs that differ in their seed: of one run, and means over the runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..metrics import student_half_width
from .changes import Changes, Moment, kept_words

DIVERSITIES = ("unique", "distinct")


@dataclass(frozen=True)
class Mean:
    """A mean, and half the width of its 95 % interval (Student's t); None for a single value."""

    mean: float
    half_width: float | None


@dataclass(frozen=True)
class FigureOverSeeds:
    """A figure of the `seeds` runs that have it. `change`: end minus snapshot, paired by run.

    `snapshot` and `change` are None for a figure that only the end has.
    """

    seeds: int
    snapshot: Mean | None
    end: Mean
    change: Mean | None


def figures_over_seeds(runs: Sequence[Changes]) -> dict[str, FigureOverSeeds]:
    """Every figure of `end_figures` that at least one of the runs has."""
    starts, ends = [snapshot_figures(run) for run in runs], [end_figures(run) for run in runs]
    return {
        name: _over_seeds(name, starts, ends) for name in dict.fromkeys(name for end in ends for name in end)
    }


def _over_seeds(
    name: str, starts: Sequence[dict[str, float]], ends: Sequence[dict[str, float]]
) -> FigureOverSeeds:
    before, after = (np.array([own[name] for own in some if name in own]) for some in (starts, ends))
    snapshot, change = (_mean(before), _mean(after - before)) if len(before) else (None, None)
    return FigureOverSeeds(len(after), snapshot, _mean(after), change)


def _mean(values: np.ndarray) -> Mean:
    return Mean(float(values.mean()), student_half_width(values) if len(values) > 1 else None)


def snapshot_figures(run: Changes) -> dict[str, float]:
    """As `end_figures`, of the snapshot: those that it has too; empty for a run without a snapshot."""
    if run.snapshot is None:
        return {}
    return _of_groups(run, _coherences(run.snapshot)) | _diversities(run.snapshot)


def end_figures(run: Changes) -> dict[str, float]:
    """The figures of a run's longest lists of top words, and of its held-out documents, by name.

    c_v, npmi: means over the topics with preferences, and over the others; only with texts. kept: share of
    the snapshot's top words that are still there, for both groups. purity, nmi: only with labels. unique,
    distinct: the diversities. A group without topics has no figures.
    """
    of_topics = _coherences(run.end)
    if run.snapshot is not None:
        of_topics["kept"] = kept_words(run.snapshot.words, run.end.words)
    labels = run.clustering
    of_documents = {} if labels is None else {"purity": labels.purity, "nmi": labels.nmi}
    return _of_groups(run, of_topics) | of_documents | _diversities(run.end)


def _of_groups(run: Changes, of_topics: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Means of figures of each topic, over both groups of topics."""
    groups = {"with preferences": list(run.improved), "others": run.others}
    return {
        f"{name}, {group}": float(values[topics].mean())
        for group, topics in groups.items()
        if topics
        for name, values in of_topics.items()
    }


def _coherences(moment: Moment) -> dict[str, np.ndarray]:
    both = {"c_v": moment.c_v, "npmi": moment.npmi}
    return {name: values for name, values in both.items() if values is not None}


def _diversities(moment: Moment) -> dict[str, float]:
    return {name: getattr(moment.figures[-1], name) for name in DIVERSITIES}
