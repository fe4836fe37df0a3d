"""report.html of a topic model's run: words and figures, at the snapshot and at the end."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..console import plural
from ..errors import DpoError
from ..monitoring.run_log import METRICS
from ..report.topics_page import Topic, TopicsRecord, Word, topics_page
from ..storage.files import write_text
from ..storage.reading import path_text
from ..topics.changes import Changes, MeanChange, Moment, kept_words, mean_change, read_changes
from ..topics.config import TopicsConfig, load_topics_config
from ..topics.corpus import Corpus
from ..topics.evaluation import FIGURES, figure_text
from ..topics.win_lose import WinLose
from .open_run import SETTINGS
from .report import REPORT, check_libraries, is_number, rows_of, settings_of
from .topics_evaluate import corpus_of
from .topics_folder import PREFERENCES
from .topics_seeds import SeedRuns, check_seeds, read_seeds, seeds_table

_NAMES = {"c_v": "C_V", "npmi": "NPMI"}
"""Coherences of each topic of a Moment, and how they are written."""


def report_topics(
    folder: Path, corpus: str | None = None, seed_runs: Sequence[Path] = ()
) -> tuple[Path, SeedRuns | None]:
    """Write `folder`/report.html; its path, and the figures over all runs if there are `seed_runs`.

    Args:
        corpus: where the corpus is now; None: where it was.
        seed_runs: runs that differ from this one only in their seed.

    Raises:
        DpoError: a folder has no finished run, the runs differ otherwise, the corpus is another one, or a
            library is missing.
    """
    check_libraries()
    documents = corpus_of(folder, corpus)
    config, runs = load_topics_config(folder / SETTINGS), [folder, *seed_runs]
    seeds = check_seeds(runs) if seed_runs else []
    changes = read_changes(folder, folder / PREFERENCES, documents)
    over_seeds = read_seeds(runs, seeds, documents, changes) if seeds else None
    return write_page(folder, config, documents, changes, over_seeds), over_seeds


def write_page(
    folder: Path, config: TopicsConfig, corpus: Corpus, changes: Changes, over_seeds: SeedRuns | None = None
) -> Path:
    """Write `folder`/report.html of a run whose changes are known."""
    path, record = folder / REPORT, topics_record(folder, config, corpus, changes)
    if over_seeds:
        record = replace(record, seeds=seeds_table(over_seeds, changes.end.words.shape[1]))
    write_text(path, topics_page(record))
    return path


def topics_record(folder: Path, config: TopicsConfig, corpus: Corpus, changes: Changes) -> TopicsRecord:
    """A run as its page shows it."""
    rows = [_numbers(row) for _, row in rows_of(folder / METRICS, {"epoch": int, "loss": float})]
    if not rows:
        hint = "mlx-dpo topics train writes it: train again"
        raise DpoError("is empty", where=path_text(folder / METRICS), hint=hint)
    topics, documents = len(changes.end.words), corpus.bags.shape[0]
    return TopicsRecord(
        name=Path(os.path.realpath(folder)).name,
        heading=(
            f"{plural(topics, 'topic')} · {plural(len(corpus.vocabulary), 'word')} · "
            f"{plural(documents, 'document')} · ECRTM"
        ),
        summary=[_extent(rows, config), *change_sentences(changes)],
        settings=settings_of(config),
        rows=rows,
        head=("figure", "at the end") if changes.snapshot is None else ("figure", "snapshot", "at the end"),
        figures=_figures(changes),
        improved=[_topic(k, changes, corpus.vocabulary) for k in changes.improved],
        others=[_topic(k, changes, corpus.vocabulary) for k in changes.others],
        snapshot=None if changes.snapshot is None else config.dpo.start_epoch,
    )


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if is_number(value)}


def _extent(rows: list[dict[str, float]], config: TopicsConfig) -> str:
    first, last = (_model_loss(rows[place]) for place in (0, -1))
    without = " without preferences" if any({"loss/dpo", "loss/anchor"} & row.keys() for row in rows) else ""
    return (
        f"{int(rows[-1]['epoch']):,} of {plural(config.training.epochs, 'epoch')}, seed "
        f"{config.training.seed}; training loss{without} from {first:.3f} to {last:.3f}."
    )


def _model_loss(row: dict[str, float]) -> float:
    """The loss without the terms of preferences, which only the second phase has."""
    return row["loss"] - row.get("loss/dpo", 0.0) - row.get("loss/anchor", 0.0)


def change_sentences(changes: Changes) -> list[str]:
    """What preferences did, in sentences; each figure with its number of topics."""
    before, end = changes.snapshot, changes.end
    if before is None:
        return ["No preferences were used."]
    if not changes.improved:
        return ["No topic was improved: the filter picked none that has winners and losers."]
    kept, sentences = kept_words(before.words, end.words), []
    for what, own in (("with", list(changes.improved)), ("without", changes.others)):
        if not own:
            continue
        their = "its" if len(own) == 1 else "their"
        share = f"{100 * kept[own].mean():.0f} % of {their} top {end.words.shape[1]} words"
        sentences.append(f"{plural(len(own), 'topic')} {what} preferences kept {share}.")
        for name, label in _NAMES.items():
            was, now = getattr(before, name), getattr(end, name)
            if now is not None:
                sentences.append(
                    f"{their.capitalize()} {label} went {change_text(mean_change(was, now, own))}."
                )
    return sentences


def change_text(found: MeanChange) -> str:
    """A change of means: from 0.323 to 0.345, change +0.022 (95 % interval +0.001 to +0.043)."""
    interval = (
        ""
        if found.low is None or found.high is None
        else f" (95 % interval over topics {_signed(found.low)} to {_signed(found.high)})"
    )
    return f"from {found.before:.3f} to {found.after:.3f}, change {_signed(found.change)}{interval}"


def _signed(value: float) -> str:
    """A number with its sign and three decimals; -0.0004 -> +0.000."""
    return f"{round(value, 3) + 0.0:+.3f}"


def _figures(changes: Changes) -> list[tuple[str, ...]]:
    moments = [moment for moment in (changes.snapshot, changes.end) if moment is not None]
    rows = [
        (f"{label}, top {own.words}", *(figure_text(getattr(m.figures[place], name)) for m in moments))
        for label, name in FIGURES
        for place, own in enumerate(changes.end.figures)
    ]
    labels = changes.clustering
    if labels:
        count = f"{labels.documents:,} held-out documents, {labels.labels} labels"
        blank = [""] * (len(moments) - 1)
        rows += [
            (f"{name}, {count}", *blank, figure_text(value))
            for name, value in (("purity", labels.purity), ("NMI", labels.nmi))
        ]
    return rows


def _topic(k: int, changes: Changes, vocabulary: list[str]) -> Topic:
    before, end, preferred = changes.snapshot, changes.end, changes.improved.get(k)
    shown = [("at the end", end)]
    if before is not None and preferred is not None:
        shown.insert(0, ("at the snapshot", before))
    return Topic(
        number=k,
        lists=[(title, _words(k, moment, before, end, preferred, vocabulary)) for title, moment in shown],
        coherence=_coherence(k, before, end),
        meaning=changes.meanings.get(k),
        score=changes.scores.get(k),
    )


def _coherence(k: int, before: Moment | None, end: Moment) -> str:
    """A topic's C_V and NPMI, before and at the end."""
    sentences = []
    for name in _NAMES:
        values = [getattr(moment, name) for moment in (before, end) if moment is not None]
        if values[-1] is not None:
            told = ", then ".join(f"{value[k]:.3f}" for value in values)
            sentences.append(f"{_NAMES[name]} {told}.")
    return " ".join(sentences)


def _words(
    k: int,
    moment: Moment,
    before: Moment | None,
    end: Moment,
    preferred: WinLose | None,
    vocabulary: list[str],
) -> list[Word]:
    both = set(end.words[k]) if before is None else set(np.intersect1d(before.words[k], end.words[k]))
    return [
        Word(vocabulary[word], float(share), _preference(int(word), preferred), word not in both)
        for word, share in zip(moment.words[k], moment.shares[k], strict=True)
    ]


def _preference(word: int, preferred: WinLose | None) -> str:
    if preferred is None:
        return ""
    return "win" if word in preferred.win else "lose" if word in preferred.lose else ""
