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
from ..storage.reading import is_there
from .config import TopicsConfig
from .corpus import Corpus
from .model_files import write_array
from .objective import Guidance
from .preference_files import SELECTED, write_selected
from .preferences import LOGITS, build_preferences, check_preferences, read_logits
from .top_words import log_beta, top_words, write_top_words
from .topic_dpo import word_pairs
from .topic_filter import LOW_SCORE, measure_of, picked_topics
from .win_lose import WinLose

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

    Args:
        folder: made if it is missing.
        logits: topic-word logits, float32 (K, V), of the snapshot; None if the run is already guided.
        used: digest of the guidance that the run used before, or "".

    Raises:
        DpoError: the preferences cannot be built, or a file has changed since the run used it.
    """
    make_folder(folder)
    if logits is not None and not is_there(folder / LOGITS):
        write_top_words(folder, logits, corpus.vocabulary)
        write_array(folder / LOGITS, logits)
    reference = read_logits(folder, len(corpus.vocabulary))
    found = build_preferences(folder, corpus, config.preferences)
    name = config.dpo.topic_filter
    judged, measure = top_words(log_beta(reference), _JUDGED), measure_of(name)
    coherence = measure(corpus.texts or [], corpus.vocabulary, judged) if measure else None
    picked = picked_topics(name, coherence, found.scores)
    chosen = {k: found.win_lose[k] for k in picked if k in found.win_lose}
    write_selected(folder / SELECTED, chosen)
    digest = _digest(reference, chosen)
    if used not in ("", digest):
        raise DpoError(
            "the preferences have changed since the run began to use them",
            where=folder,
            hint="restore the files in this folder, or start anew with --overwrite",
        )
    if not used:
        say(f"preferences: {plural(len(chosen), 'topic')} of {len(reference):,} will be improved")
    others = [k for k in range(len(reference)) if k not in chosen]
    return Guidance(mx.array(reference), word_pairs(chosen), mx.array(others, mx.int32), digest)


def _digest(reference: np.ndarray, chosen: dict[int, WinLose]) -> str:
    """SHA-256 of the snapshot's logits and of the preferences in use, in hex."""
    found = hashlib.sha256(reference.tobytes())
    found.update(json.dumps({str(k): own for k, own in chosen.items()}).encode())
    return found.hexdigest()
