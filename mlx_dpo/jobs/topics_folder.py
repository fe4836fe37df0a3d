"""The folder of a topic model's run: whether a run may start or continue there."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DpoError, first_ten
from ..models.adapters import CONFIG, WEIGHTS
from ..monitoring.run_log import FILES
from ..settings import deciding
from ..storage.cache import content_hash
from ..storage.checksummed_folder import Sealed
from ..storage.reading import check_name, entries, is_folder, is_there, path_text
from ..topics.checkpoint import KIND
from ..topics.config import TopicsConfig
from ..topics.corpus import Corpus
from ..topics.model_files import RESULTS
from ..topics.preference_files import DESCRIPTIONS, EXTRA_WORDS, SCORES, SELECTED
from ..topics.preference_files import PREFERENCES as PREFERRED
from ..topics.preferences import LOGITS
from ..topics.top_words import FILES as TOP_WORDS
from ..training.checkpoint_folder import (
    CHECKPOINTS,
    newest_checkpoint,
    remove_leftovers,
    remove_run,
)
from .continuing import check_unchanged, would_replace
from .open_run import SETTINGS
from .report import REPORT

PREFERENCES = "preferences"
"""The folder, inside the run's, with everything from the snapshot to the chosen topics."""

_OF_PREFERENCES = {
    *TOP_WORDS,
    *(LOGITS, SCORES, DESCRIPTIONS, EXTRA_WORDS, PREFERRED, SELECTED),
    *("replies.jsonl", "replies.json"),
}
_OF_OTHERS = ("train_bow.npz", WEIGHTS, CONFIG, "config.json")
"""Files of a corpus, of an adapter and of a model: a run would replace others beside them."""
_PARTS = {
    "corpus": "the corpus (corpus.folder)",
    "vectors": "the file of word vectors (word_vectors.path)",
    "preferences": "the file of preferences (preferences.file)",
}
_INPUTS = _PARTS | {
    "vectors": "the word vectors (word_vectors.path)",
    "llm": "the LLM (preferences.model)",
    "embedder": "the embedder (preferences.embedder)",
}


def check_inputs_outside(config: TopicsConfig) -> None:
    """Check that nothing that a run reads is in its folder, where a new run removes files.

    Raises:
        DpoError: something is.
    """
    preferences = config.preferences
    named = {
        "corpus": config.corpus.folder,
        "vectors": config.word_vectors.path,
        "preferences": preferences.file,
        "llm": None if preferences.url else preferences.model,
        "embedder": preferences.embedder,
    }
    folder = config.run.output
    for part, path in named.items():
        if path and is_there(path) and _real(path).is_relative_to(_real(folder)):
            raise DpoError(
                f"is or contains {_INPUTS[part]}",
                where=path_text(folder),
                hint="choose another folder with --output",
            )


def _real(path: str) -> Path:
    """The full path without symbolic links."""
    check_name(path)
    return Path(os.path.realpath(path))


def check_replaceable(folder: Path) -> None:
    """Check that a folder has nothing of others that a new run would remove, or spoil.

    Raises:
        DpoError: with the names of such files.
    """
    shown = [own.name for own in entries(folder / PREFERENCES) if not own.name.startswith(".")]
    snapshot = LOGITS in shown or bool(entries(folder / CHECKPOINTS))
    foreign = [
        f"{PREFERENCES}/{name}" for name in shown if name not in (_OF_PREFERENCES if snapshot else TOP_WORDS)
    ]
    if others := [*(name for name in _OF_OTHERS if is_there(folder / name)), *foreign]:
        missing = f" without {PREFERENCES}/{LOGITS}" if foreign and not snapshot else ""
        raise DpoError(
            f"contains {first_ten(others)}{missing}, which no run of a topic model has",
            where=path_text(folder),
            hint="choose another folder with --output",
        )


def run_key(config: TopicsConfig, corpus: Corpus, before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Everything that decides what a run computes, as plain values.

    Args:
        before: the key of the run that continues. It needs its file of word vectors no more, so a file that
            is gone counts as the same.

    Raises:
        DpoError: a file that the settings name cannot be read.
    """
    settings = {name: value for name, value in deciding(config).items() if not name.startswith("corpus.")}
    vectors, preferences = config.word_vectors, config.preferences.file
    words = vectors.path
    if vectors.source == "file":
        gone = before and not is_there(vectors.path)
        words = before["vectors"] if gone else content_hash(vectors.path)
    return {
        "settings": settings,
        "corpus": _digest(corpus),
        "vectors": words,
        "preferences": content_hash(preferences) if preferences else None,
    }


def _digest(corpus: Corpus) -> str:
    """SHA-256 of the documents that are trained on, and of the vocabulary."""
    found = hashlib.sha256("\n".join(corpus.vocabulary).encode())
    for array in (corpus.bags.indptr, corpus.bags.indices, corpus.bags.data):
        found.update(array.astype("<i8").tobytes())
    for text in corpus.texts or []:
        found.update(text.encode() + b"\n")
    return found.hexdigest()


def checkpoint_in(folder: Path) -> Sealed | None:
    """The checkpoint from which a run in this folder continues; None if the folder contains no run.

    Raises:
        DpoError: the folder contains something else that a run would replace, or cannot be read.
    """
    remove_leftovers(folder)
    if checkpoint := newest_checkpoint(folder):
        if checkpoint.facts.get("kind") != KIND:
            raise DpoError(
                "contains a run of another command",
                where=folder,
                hint="choose another folder with --output",
            )
        return checkpoint
    check_replaceable(folder)
    held = [name for name in (*RESULTS, *FILES, SETTINGS, PREFERENCES) if is_there(folder / name)]
    begun = is_folder(folder / CHECKPOINTS)  # made first, before anything that took time
    if held and not begun:
        raise would_replace(held, folder)
    return None


def differing_parts(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The parts of two keys that differ, besides settings, in words."""
    return [what for part, what in _PARTS.items() if one[part] != other[part]]


def check_same(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    folder: Path,
    hint: str = "undo the change to continue, or restart with --overwrite",
) -> None:
    """Check that a run of key `before` may continue as a run of key `now`.

    Raises:
        DpoError: with all differences.
    """
    check_unchanged(before, now, _PARTS, folder, hint)


def clear_folder(folder: Path) -> None:
    """Remove an older run."""
    remove_run(folder, [PREFERENCES], [*FILES, *RESULTS, REPORT])
