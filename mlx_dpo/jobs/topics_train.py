"""A topic model's run: check, start or continue, train in both phases, write the results."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.optimizers as optimizers
import numpy as np

from ..console import progress, say
from ..errors import DpoError
from ..machine.interrupt import between_micro_batches
from ..models.embedder import check_embedder
from ..monitoring.run_log import RunLog
from ..optimizers import OptimizerConfig, optimizer_at
from ..settings import save_settings
from ..storage.checksummed_folder import Sealed
from ..storage.files import check_writable, make_folder
from ..storage.reading import is_there
from ..topics.batches import batch_count
from ..topics.checkpoint import restore, save_state
from ..topics.config import TopicsConfig
from ..topics.corpus import Corpus, read_corpus
from ..topics.ecrtm import ECRTM
from ..topics.guidance import build_guidance, check_guidance
from ..topics.model_files import topic_word_logits, write_results
from ..topics.objective import Guidance
from ..topics.preference_checks import check_models
from ..topics.preferences import is_built
from ..topics.sizes import check_sizes
from ..topics.state import TopicState
from ..topics.topic_dpo import ranked_share
from ..topics.train import train
from ..topics.word_vectors import embedded, ppmi_svd, read_glove
from ..training.checkpoint_folder import (
    CHECKPOINTS,
    adapter_bytes,
    only_process,
    prune_checkpoints,
    remove_checkpoints,
)
from .continuing import check_resumed, say_if_changed, versions
from .open_run import SETTINGS
from .topics_folder import (
    PREFERENCES,
    check_inputs_outside,
    check_replaceable,
    check_same,
    checkpoint_in,
    clear_folder,
    run_key,
)
from .topics_snapshot import Snapshot, begin_with, check_began_with, open_snapshot

_LIBRARIES = ("mlx", "mlx-dpo")
"""Libraries whose versions a run notes."""


class TopicRun(NamedTuple):
    """The folder of a run, the loss of its last epoch, and why it ended early, or ""."""

    folder: Path
    loss: float
    stopped: str


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
            return _run(config, corpus, key, folder, checkpoint, vectors)


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


def _run(
    config: TopicsConfig,
    corpus: Corpus,
    key: dict[str, Any],
    folder: Path,
    checkpoint: Sealed | None,
    vectors: np.ndarray | None,
) -> TopicRun:
    """Train, and write the results.

    Args:
        vectors: float32 (V, E), where the word vectors start; None for random ones, or with a checkpoint.
    """
    log = RunLog(folder, config.training.epochs)
    mx.random.seed(config.training.seed)
    model = ECRTM(len(corpus.vocabulary), config.model, vectors)
    if not config.training.train_words:
        model.freeze_words()
    optimizer = optimizer_at(OptimizerConfig(name="adam"), config.optimizer.learning_rate)
    save = partial(_save, config, corpus, key, folder, model, optimizer, log)
    state = (
        _restored(checkpoint, model, optimizer, log) if checkpoint else _begun(folder, model, optimizer, save)
    )
    save_settings(config, folder / SETTINGS)
    go = partial(_trained, config, corpus, folder, model, optimizer, log, save)
    start = config.dpo.start_epoch
    if not state.guided:
        state = go(state, None)
    if start is not None and not state.stopped:
        logits = None if state.guided else topic_word_logits(model)
        guidance = build_guidance(folder / PREFERENCES, corpus, config, logits, state.guided)
        model.freeze_words()
        state = go(state.guided_by(guidance.digest), guidance)
        _say_ranked(model, guidance)
    write_results(model, corpus, folder)
    if state.stopped:
        say(f"the run ended early: {state.stopped}")
    return TopicRun(folder, log.rows()[-1]["loss"], state.stopped)


def _say_ranked(model: ECRTM, guidance: Guidance) -> None:
    """Say how far the preferences were learnt; a loss that stays says the same, but not as clearly."""
    if guidance.pairs:
        before, now = (
            ranked_share(own, guidance.pairs) for own in (guidance.reference, model.get_beta_logits())
        )
        say(f"winners rank above losers in {now:.0%} of the pairs of words, {before:.0%} at the snapshot")


def _begun(
    folder: Path, model: ECRTM, optimizer: optimizers.Optimizer, save: Callable[[TopicState], None]
) -> TopicState:
    """The state before the first update, saved; an older run in the folder is removed."""
    state = TopicState()
    optimizer.init(model.trainable_parameters())
    make_folder(folder / CHECKPOINTS)  # first: marks the folder as a run, even if the process ends soon
    clear_folder(folder)
    save(state)
    return state


def _restored(checkpoint: Sealed, model: ECRTM, optimizer: optimizers.Optimizer, log: RunLog) -> TopicState:
    """The state of the checkpoint; sets model, optimiser and the folder's files back to that state."""
    facts = checkpoint.facts
    log.check(facts["sizes"])
    state = restore(checkpoint, model, optimizer)
    remove_checkpoints(log.folder, after=state.step)
    log.rewind(facts["sizes"])
    say_if_changed(facts["versions"], versions(*_LIBRARIES))
    return state


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


def _save(
    config: TopicsConfig,
    corpus: Corpus,
    key: dict[str, Any],
    folder: Path,
    model: ECRTM,
    optimizer: optimizers.Optimizer,
    log: RunLog,
    state: TopicState,
) -> None:
    """Write a checkpoint, and remove old ones, except the last one without preferences."""
    about = {"key": key, "sizes": log.sizes(), "versions": versions(*_LIBRARIES)}
    save_state(folder, model, optimizer, state, about)
    start = config.dpo.start_epoch
    snapshot = start and start * batch_count(corpus.bags.shape[0], config.training.batch_size)
    prune_checkpoints(folder, config.training.keep_checkpoints, snapshot)


def _trained(
    config: TopicsConfig,
    corpus: Corpus,
    folder: Path,
    model: ECRTM,
    optimizer: optimizers.Optimizer,
    log: RunLog,
    save: Callable[[TopicState], None],
    state: TopicState,
    guidance: Guidance | None,
) -> TopicState:
    """Train to the end of the phase; an interrupt is passed on after saving."""
    epochs, documents = config.training.epochs, corpus.bags.shape[0]
    per_epoch = batch_count(documents, config.training.batch_size)
    done = state.step // per_epoch * documents + state.documents

    with (
        between_micro_batches(folder / CHECKPOINTS) as check_interrupt,
        progress("training", epochs * documents, "documents", done) as advance,
    ):
        return train(
            model,
            optimizer,
            corpus.bags,
            config,
            state,
            guidance,
            save=save,
            log=lambda row: log.row(row, _line(row, epochs)),
            advance=advance,
            check_interrupt=check_interrupt,
        )


def _line(row: dict[str, Any], epochs: int) -> str:
    """A row of metrics for the terminal."""
    terms = "  ".join(f"{name[5:]} {row[name]:.3f}" for name in row if name.startswith("loss/"))
    return (
        f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}  loss {row['loss']:.3f}  {terms}  "
        f"{row['documents_per_second']:,.0f} documents/s"
    )
