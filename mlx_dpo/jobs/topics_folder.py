"""The folder of a topic model's run: whether a run may start or continue there."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DpoError
from ..monitoring.run_log import FILES
from ..settings import deciding
from ..storage.cache import content_hash
from ..storage.checksummed_folder import Sealed
from ..storage.reading import is_folder, is_there
from ..topics.checkpoint import KIND
from ..topics.config import TopicsConfig
from ..topics.corpus import Corpus
from ..topics.model_files import RESULTS
from ..training.checkpoint_folder import (
    CHECKPOINTS,
    newest_checkpoint,
    remove_leftovers,
    remove_run,
)
from .continuing import check_unchanged, would_replace
from .open_run import SETTINGS

PREFERENCES = "preferences"
"""The folder, inside the run's, with everything from the snapshot to the chosen topics."""

_PARTS = {
    "corpus": "the corpus (corpus.folder)",
    "vectors": "the file of word vectors (word_vectors.path)",
    "preferences": "the file of preferences (preferences.file)",
}


def run_key(config: TopicsConfig, corpus: Corpus) -> dict[str, Any]:
    """Everything that decides what a run computes, as plain values.

    Raises:
        DpoError: a file that the settings name cannot be read.
    """
    settings = {name: value for name, value in deciding(config).items() if not name.startswith("corpus.")}
    vectors, preferences = config.word_vectors, config.preferences.file
    return {
        "settings": settings,
        "corpus": _digest(corpus),
        "vectors": content_hash(vectors.path) if vectors.source == "file" else vectors.path,
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
                hint="choose another folder with --output, or replace the run with --overwrite",
            )
        return checkpoint
    held = [name for name in (*RESULTS, *FILES, SETTINGS, PREFERENCES) if is_there(folder / name)]
    begun = is_folder(folder / CHECKPOINTS)  # made first, before anything that took time
    if held and not begun:
        raise would_replace(held, folder)
    return None


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
    remove_run(folder, [PREFERENCES], [*FILES, *RESULTS])
