"""The loop of a topic model: updates, in a first phase without and in a second one with preferences."""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers

from ..errors import DpoError
from ..machine.interrupt import Stop
from .batches import batch_count, dense, epoch_batches, step_keys
from .config import TopicsConfig
from .ecrtm import ECRTM
from .objective import Guidance, draw_batch, loss_terms
from .state import TopicState

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

BASE, DPO = "base", "dpo"
"""The phases of a run, as metrics.jsonl names them."""


def train(
    model: ECRTM,
    optimizer: optimizers.Optimizer,
    bags: "csr_matrix",
    config: TopicsConfig,
    state: TopicState,
    guidance: Guidance | None = None,
    *,
    save: Callable[[TopicState], None],
    log: Callable[[dict[str, float | str]], None],
    advance: Callable[[int], None] = lambda documents: None,
    check_interrupt: Callable[[], None] = lambda: None,
) -> TopicState:
    """Update the model to the end of its phase; every document is used exactly once per epoch.

    Args:
        bags: counts, (documents, V).
        state: where to begin; model and optimiser must be in the same state.
        guidance: what guides the topics; None until `dpo.start_epoch`, where the first phase ends.
        save: called when `save_minutes` have passed, at the end, and before a Stop is passed on.
        log: takes one row of metrics.
        advance: called with the documents of each batch.
        check_interrupt: called before every batch; may raise Stop.

    Raises:
        DpoError: the loss is not finite.
    """
    own, documents = config.training, bags.shape[0]
    per_epoch, last = batch_count(documents, own.batch_size), None if guidance else config.dpo.start_epoch
    steps, batches, saved = (last or own.epochs) * per_epoch, None, time.monotonic()
    begun, done = time.perf_counter(), 0
    model.train()
    try:
        while state.step < steps and not state.stopped:
            epoch, place = divmod(state.step, per_epoch)
            if place == 0 or batches is None:
                batches = epoch_batches(documents, own.batch_size, own.seed, epoch)
            check_interrupt()
            optimizer.learning_rate = config.optimizer.rate(epoch)
            rows = batches[place]
            batch = draw_batch(dense(bags, rows), model, step_keys(own.seed, state.step))
            terms = _update(model, optimizer, partial(loss_terms, model, batch, guidance, config.dpo))
            if not all(map(math.isfinite, terms.values())):
                raise _diverged(terms, epoch)
            state = state.after_update(terms, len(rows))
            advance(len(rows))
            done += len(rows)
            if place == per_epoch - 1:
                ended = state.after_epoch(None if last else own.patience)
                if (epoch + 1) % own.report_epochs == 0 or state.step == steps or ended.stopped:
                    log(
                        {
                            "epoch": epoch + 1,
                            "phase": DPO if guidance else BASE,
                            **state.means(),
                            "learning_rate": config.optimizer.rate(epoch),
                            "documents_per_second": done / (time.perf_counter() - begun),
                            "peak_memory_gb": mx.get_peak_memory() / 1e9,
                        }
                    )
                    begun, done = time.perf_counter(), 0
                state = ended
            if time.monotonic() - saved > 60 * own.save_minutes:
                save(state)
                saved = time.monotonic()
    except Stop:
        save(state)
        raise
    save(state)
    return state


def _update(
    model: ECRTM,
    optimizer: optimizers.Optimizer,
    loss: Callable[[], tuple[mx.array, dict[str, mx.array]]],
) -> dict[str, float]:
    """Make one update; the terms of the loss before it."""
    (_, terms), gradient = nn.value_and_grad(model, loss)()
    optimizer.update(model, gradient)
    mx.eval(model.state, optimizer.state, terms)
    return {name: value.item() for name, value in terms.items()}


def _diverged(terms: dict[str, float], epoch: int) -> DpoError:
    wrong = ", ".join(name for name, value in terms.items() if not math.isfinite(value))
    weight = "dpo.weight" if "dpo" in terms else "model.ecr_weight"
    return DpoError(
        f"the loss is not finite in epoch {epoch + 1} (its part {wrong})",
        hint=f"start another run with a lower optimizer.learning_rate or {weight}: give it another --output",
    )
