"""The command topics train: check everything, then start or continue the run."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DpoError
from ..models.embedder import check_embedder
from ..storage.checksummed_folder import Sealed
from ..storage.files import check_writable, make_folder
from ..storage.reading import is_there
from ..topics.config import TopicsConfig
from ..topics.corpus import Corpus, read_corpus
from ..topics.guidance import build_guidance, check_guidance
from ..topics.preference_checks import check_models
from ..topics.preferences import is_built
from ..topics.sizes import check_sizes
from ..topics.word_vectors import embedded, ppmi_svd, read_glove
from ..training.checkpoint_folder import adapter_bytes, only_process
from .continuing import check_resumed
from .topics_folder import (
    PREFERENCES,
    check_inputs_outside,
    check_replaceable,
    check_same,
    checkpoint_in,
    run_key,
)
from .topics_phases import TopicRun, run_phases
from .topics_snapshot import Snapshot, begin_with, check_began_with, open_snapshot


def train_topics(
    config: TopicsConfig, *, overwrite: bool = False, resume: bool = False, snapshot: str | None = None
) -> TopicRun:
    """Train as configured, or continue the run in the folder from its newest checkpoint.

    Args:
        overwrite: replace an existing run.
        resume: fail if there is no run to continue.
        snapshot: the folder of a run, with whose snapshot and preferences a new run begins.

    Raises:
        DpoError: anything a user can fix; before slow work, if it can be known before.
        KeyboardInterrupt: a stop was requested, and a checkpoint was written; or it was requested twice.
    """
    folder = Path(config.run.output)
    check_inputs_outside(config)
    _check_preferences_used(config)
    corpus = read_corpus(config.corpus.folder)
    check_writable(folder, need_bytes=_run_bytes(config, corpus))
    check_sizes(config, corpus)
    check_guidance(config, corpus)
    start = open_snapshot(Path(snapshot), config, corpus) if snapshot else None
    with only_process(folder) if is_there(folder) else nullcontext(False) as locked:
        if overwrite:
            check_replaceable(folder)
        checkpoint = None if overwrite else checkpoint_in(folder)
        check_resumed(resume, checkpoint, folder)
        key = run_key(config, corpus, checkpoint.facts["key"] if checkpoint else None)
        _check_begun(config, corpus, key, folder, checkpoint, start)
        vectors = None if checkpoint or start else _word_vectors(config, corpus)
        make_folder(folder)
        with nullcontext() if locked else only_process(folder):
            if not locked and checkpoint_in(folder):
                hint = "choose another folder with --output"
                raise DpoError("contains a run that was started meanwhile", where=folder, hint=hint)
            if start and not checkpoint:
                checkpoint = begin_with(start, folder, key)
            return run_phases(config, corpus, key, folder, checkpoint, vectors)


def _check_begun(
    config: TopicsConfig,
    corpus: Corpus,
    key: dict[str, Any],
    folder: Path,
    checkpoint: Sealed | None,
    start: Snapshot | None,
) -> None:
    """Check that a run may begin, or continue from its checkpoint, and that its models can be used."""
    if checkpoint:
        check_same(checkpoint.facts["key"], key, folder)
        if start:
            check_began_with(start, folder)
    if used := checkpoint and checkpoint.facts["state"]["guided"]:
        build_guidance(folder / PREFERENCES, corpus, config, None, used)
    elif config.dpo.start_epoch and not start and not (checkpoint and is_built(folder / PREFERENCES)):
        check_models(config.preferences)


def _check_preferences_used(config: TopicsConfig) -> None:
    """Check that a run without preferences was not given any."""
    own = config.preferences
    named = [name for name in ("file", "url", "model", "embedder") if getattr(own, name) is not None]
    if named and config.dpo.start_epoch is None:
        raise DpoError(
            "has no effect, because dpo.start_epoch is null",
            where=f"preferences.{named[0]}",
            hint="set dpo.start_epoch to the epochs before preferences are used, or "
            f"preferences.{named[0]}=null",
        )


def _run_bytes(config: TopicsConfig, corpus: Corpus) -> int:
    """Bytes that a run needs for its results and checkpoints, as far as they grow with the corpus."""
    per_word = config.model.encoder_size + config.model.embedding_size + config.model.topics
    documents = corpus.bags.shape[0] + (corpus.test.bags.shape[0] if corpus.test else 0)
    checkpoints = adapter_bytes(4 * per_word * len(corpus.vocabulary), config.training.keep_checkpoints)
    return checkpoints + 4 * documents * config.model.topics


def _word_vectors(config: TopicsConfig, corpus: Corpus) -> np.ndarray | None:
    own = config.word_vectors
    if own.source == "corpus":
        return ppmi_svd(corpus.bags, config.model.embedding_size, config.training.seed % 2**32)
    if own.source == "file":
        return read_glove(own.path, corpus.vocabulary)
    if own.source == "embedder":
        check_embedder(
            own.path, "word_vectors.source", "word_vectors.source=corpus and word_vectors.path=null"
        )
        return embedded(own.path, corpus.vocabulary)
    return None
