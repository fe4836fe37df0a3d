"""From a snapshot of the topics to what guides them afterwards: preferences, and the topics they are for.

A run's folder `preferences` gets beta_ref_logits.npy, the files of `preferences`, and
dpo_selected_topics.jsonl.
"""

import hashlib
import json
from pathlib import Path

import mlx.core as mx
import numpy as np

from ..console import plural, say
from ..errors import DpoError
from ..storage.files import make_folder
from ..storage.reading import is_there, path_text
from .config import TopicsConfig
from .corpus import Corpus
from .model_files import write_array
from .objective import Guidance
from .preference_checks import check_preferences
from .preference_files import PREFERENCES, SELECTED, read_preferences, read_selected, write_selected
from .preferences import LOGITS, build_preferences, read_logits
from .top_words import log_beta, top_words, write_top_words
from .topic_dpo import word_pairs
from .topic_filter import LOW_SCORE, measure_of, picked_topics
from .win_lose import WinLose

_AGAIN = "restore the files in this folder, or start anew with --overwrite"
_JUDGED = 15
"""Top words of a topic whose coherence the filter looks at."""


def check_guidance(config: TopicsConfig, corpus: Corpus) -> None:
    """Check before training what building the guidance needs.

    Raises:
        DpoError: the filter needs texts or scores, and there are none; or as `check_preferences`.
    """
    name = config.dpo.topic_filter
    if config.dpo.start_epoch and measure_of(name) and corpus.texts is None:
        raise DpoError(
            f"{name} needs the texts of the corpus, and {corpus.folder} has no train_texts.txt",
            where="dpo.topic_filter",
            hint="add the file, with one document a line, or set dpo.topic_filter=llm_score or none",
        )
    if config.dpo.start_epoch and name == LOW_SCORE and config.preferences.file is not None:
        raise DpoError(
            "is llm_score, but with preferences.file topics have no scores",
            where="dpo.topic_filter",
            hint="set dpo.topic_filter=none to use them for all topics of the file",
        )
    if config.dpo.start_epoch:
        check_preferences(config.preferences, config.model.topics, corpus)


def build_guidance(
    folder: Path, corpus: Corpus, config: TopicsConfig, logits: np.ndarray | None, used: str
) -> Guidance:
    """Preferences for the topics that the filter picks; files that are there already are read, not made.

    A run that is guided already gets what it used before, and nothing is written.

    Args:
        folder: made if it is missing.
        logits: topic-word logits, float32 (K, V), of the snapshot; None if the run is already guided.
        used: digest of the guidance that the run used before, or "".

    Raises:
        DpoError: the preferences cannot be built; or a file is not of this snapshot, or has changed since the
            run used it.
    """
    reference, chosen = _in_use(folder, corpus) if logits is None else _new(folder, corpus, config, logits)
    digest = _digest(reference, chosen)
    if used not in ("", digest):
        raise DpoError(
            "the preferences have changed since the run began to use them", where=folder, hint=_AGAIN
        )
    others = [k for k in range(len(reference)) if k not in chosen]
    return Guidance(mx.array(reference), word_pairs(chosen), mx.array(others, mx.int32), digest)


def _in_use(folder: Path, corpus: Corpus) -> tuple[np.ndarray, dict[int, WinLose]]:
    """The logits of the snapshot, and the preferences of the topics that were picked."""
    missing = [name for name in (LOGITS, PREFERENCES, SELECTED) if not is_there(folder / name)]
    if missing:
        what = f"the run uses preferences, but there is no {' and no '.join(missing)}"
        raise DpoError(what, where=folder, hint=_AGAIN)
    reference = read_logits(folder, len(corpus.vocabulary))
    found = read_preferences(folder / PREFERENCES, len(reference), corpus.number)
    picked = read_selected(folder / SELECTED, len(reference), found)
    return reference, {k: found[k] for k in picked}


def _new(
    folder: Path, corpus: Corpus, config: TopicsConfig, logits: np.ndarray
) -> tuple[np.ndarray, dict[int, WinLose]]:
    """As `_in_use`, of a run that is not guided yet: what is missing is made."""
    make_folder(folder)
    if not is_there(folder / LOGITS):
        write_top_words(folder, logits, corpus.vocabulary)
        write_array(folder / LOGITS, logits)
    reference = read_logits(folder, len(corpus.vocabulary))
    if reference.shape != logits.shape or not np.allclose(reference, logits, rtol=1e-4, atol=1e-4):
        hint = "delete the file: the same command then writes it again"
        raise DpoError("is not the snapshot of this run", where=path_text(folder / LOGITS), hint=hint)
    found = build_preferences(folder, corpus, config.preferences)
    name = config.dpo.topic_filter
    judged, measure = top_words(log_beta(reference), _JUDGED), measure_of(name)
    coherence = measure(corpus.texts or [], corpus.vocabulary, judged) if measure else None
    picked = picked_topics(name, coherence, found.scores)
    chosen = {k: found.win_lose[k] for k in picked if k in found.win_lose}
    write_selected(folder / SELECTED, chosen)
    say(f"preferences: {plural(len(chosen), 'topic')} of {len(reference):,} will be improved")
    return reference, chosen


def _digest(reference: np.ndarray, chosen: dict[int, WinLose]) -> str:
    """SHA-256 of the snapshot's logits and of the preferences in use, in hex."""
    found = hashlib.sha256(reference.tobytes())
    found.update(json.dumps({str(k): own for k, own in chosen.items()}).encode())
    return found.hexdigest()
