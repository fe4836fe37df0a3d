"""A topic model's run from its start or its checkpoint on: both phases of the training, then the results."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.optimizers as optimizers
import numpy as np

from ..console import progress, say
from ..machine.interrupt import between_micro_batches
from ..monitoring.run_log import RunLog
from ..optimizers import OptimizerConfig, optimizer_at
from ..settings import save_settings
from ..storage.checksummed_folder import Sealed
from ..storage.files import make_folder
from ..topics.batches import batch_count
from ..topics.checkpoint import restore, save_state
from ..topics.config import TopicsConfig
from ..topics.corpus import Corpus
from ..topics.ecrtm import ECRTM
from ..topics.guidance import build_guidance
from ..topics.model_files import topic_word_logits, write_results
from ..topics.objective import Guidance
from ..topics.state import TopicState
from ..topics.topic_dpo import ranked_share
from ..topics.train import train
from ..training.checkpoint_folder import CHECKPOINTS, prune_checkpoints, remove_checkpoints
from .continuing import say_if_changed, versions
from .open_run import SETTINGS
from .topics_folder import PREFERENCES, clear_folder

_LIBRARIES = ("mlx", "mlx-dpo")
"""Libraries whose versions a run notes."""


class TopicRun(NamedTuple):
    """The folder of a run, the loss of its last epoch, and why it ended early, or ""."""

    folder: Path
    loss: float
    stopped: str


def run_phases(
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
