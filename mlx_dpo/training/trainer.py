"""The loop of one run."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
import numpy as np

from ..data.batches import epoch_windows
from ..data.tokenize import TokenizedPair, pair_sizes
from ..losses import LossFunction, PairLogps
from ..machine.interrupt import Stop
from ..machine.resources import process_memory
from ..metrics import pair_metrics
from ..randomness import random_key
from .config import TrainingConfig
from .moving_reference import MovingReference
from .not_finite import report_skipped
from .rehearsal import Rehearsal
from .state import Interval, TrainState
from .step import cap_cache, update
from .window_gradient import Objective, Window, take_window


class Data(NamedTuple):
    """Pairs with the reference's scores: float32 (n, 2) nats, chosen and rejected.

    With `answers_only` (sft) both answers of a pair are the same, and figures of pairs are not reported.
    """

    pairs: Sequence[TokenizedPair]
    reference: np.ndarray
    answers_only: bool = False

    def tokens(self) -> np.ndarray:
        """Distinct tokens of every pair, int (n,)."""
        return pair_sizes(self.pairs)[:, : 2 if self.answers_only else 3].sum(axis=1)

    def reported(self, metrics: dict[str, float]) -> dict[str, float]:
        """The metrics that are meaningful for this data."""
        names = [name for name in metrics if not name.removeprefix("eval/").startswith(_OF_PAIRS)]
        return {name: metrics[name] for name in names} if self.answers_only else metrics


_OF_PAIRS = ("rewards/", "logps/rejected", "beta")


def first_state(objective: Objective, config: TrainingConfig) -> TrainState:
    """The state before the first update."""
    return TrainState(beta=objective.init(config.seed), random=random_key())


def train(
    policy: nn.Module,
    optimizer: optimizers.Optimizer,
    data: Data,
    objective: Objective,
    config: TrainingConfig,
    grad_clip: float,
    epochs: int,
    state: TrainState,
    *,
    rehearsal: Rehearsal | None = None,
    evaluate: Callable[[int], tuple[Mapping[str, float] | None, str]],
    save: Callable[[TrainState], None],
    log: Callable[[dict[str, float]], None],
    note: Callable[[int, str, str], None] = lambda step, event, what: None,
    keep_margins: Callable[[int, int, np.ndarray], None] | None = None,
    advance: Callable[[int], None] = lambda pairs: None,
    check_interrupt: Callable[[], None] = lambda: None,
    ended: Callable[[], str] = lambda: "",
) -> TrainState:
    """Update the policy until every epoch is done; every pair is used exactly once per epoch.

    Args:
        epochs: passes over the pairs.
        state: where to begin; policy, optimiser and MLX's random key must be in the same state.
        rehearsal: texts that keep the policy close to its starting model.
        evaluate: called with the step at the start, every `eval_steps` updates and after the last; gives the
            held-out metrics, or None without held-out pairs, and what is damaging the policy, or "".
        save: called after every evaluation, when `save_minutes` have passed, and before a Stop is passed on.
        log: takes one row of metrics.
        note: takes step, kind and text of an event.
        keep_margins: takes the epoch, from 0, the step and the margins (n,) of each window.
        advance: called with the pairs of each window.
        check_interrupt: called before every micro-batch; may raise Stop.
        ended: gives the reason to end the run now, after one more evaluation; or "".

    Raises:
        DpoError: too many windows in a row had no finite loss and gradient.
    """
    steps = config.updates(len(data.pairs), epochs)
    eval_steps = config.eval_steps or max(1, -(-steps // 10))
    reference = MovingReference(policy, objective.gradient, data.pairs, data.reference, state.reference)
    pair_tokens = data.tokens()
    windows, saved = _windows(data, config, epochs, state.step), time.monotonic()
    try:
        while True:
            done = state.step >= steps  # more if changed settings end the run earlier
            due = done or bool(ended()) or state.step % eval_steps == 0 or state.evaluated < 0
            if due and state.evaluated < state.step:
                row, ruin = evaluate(state.step)
                state = state.after_evaluation(row, config.patience, ruin)
                if ruin and config.guard == "stop":
                    state = replace(state, stopped=ruin)
            if not done and not state.stopped:
                state = replace(state, stopped=ended())
            if due or time.monotonic() - saved > 60 * config.save_minutes:
                save(state)
                saved = time.monotonic()
            if state.stopped or done:
                return state

            start, (epoch, window) = time.perf_counter(), next(windows)
            policy.train()
            scores = reference.of(window, check_interrupt)
            mean, result, beta, next_beta = take_window(
                objective, data.pairs, window, scores, state.beta, check_interrupt
            )
            finite, divergences = np.isfinite(result.losses).all(), []
            if rehearsal and finite:
                given, mean = [mean], None
                mean, divergences = rehearsal.added(policy, given, state.step, config.window, check_interrupt)
            norm = update(policy, optimizer, mean, grad_clip) if finite else math.nan
            del mean  # otherwise it stays in memory while the next one is computed
            cap_cache()
            tokens = int(pair_tokens[result.rows].sum())
            state = replace(
                state,
                random=random_key(),
                step=state.step + 1,
                pairs=state.pairs + len(result.rows),
                tokens=state.tokens + tokens,
                skipped=0 if math.isfinite(norm) else state.skipped + 1,
            )
            advance(len(result.rows))
            if state.skipped:
                report_skipped(result, divergences, data.pairs, state, config.max_skipped, note)
                continue
            state = replace(
                state,
                beta=next_beta,
                interval=state.interval.after(result, beta, divergences, tokens, time.perf_counter() - start),
            )
            if config.reference_sync_steps and state.step % config.reference_sync_steps == 0:
                reference.sync()
                state = replace(state, reference=reference.kept)
            if keep_margins:
                keep_margins(epoch, state.step, result.margins)
            if state.step == 1 or state.step % config.report_steps == 0 or state.step == steps:
                log(
                    {
                        "step": state.step,
                        "epoch": round(state.pairs / len(data.pairs), 4),
                        **data.reported(state.interval.metrics()),
                        "learning_rate": float(optimizer.learning_rate.item()),
                        "grad_norm": norm,
                        "tokens": state.tokens,
                        "peak_memory_gb": mx.get_peak_memory() / 1e9,
                        "process_memory_gb": process_memory() / 1e9,
                    }
                )
                state = replace(state, interval=Interval())
    except Stop:
        save(state)
        raise


def _windows(data: Data, config: TrainingConfig, epochs: int, done: int) -> Iterator[tuple[int, Window]]:
    """Epoch and window of every update after the first `done`."""
    first, skipped = divmod(done, -(-len(data.pairs) // config.window))
    for epoch in range(first, epochs):
        windows = epoch_windows(data.pairs, config.window, config.micro_batch, config.seed, epoch)
        for number in range(skipped, len(windows)):
            yield epoch, windows[number]
        skipped = 0


def evaluation_metrics(
    scores: np.ndarray, data: Data, loss: LossFunction, beta: mx.array
) -> dict[str, float]:
    """Metrics of held-out pairs with these scores, under eval/ names, and their number as eval/pairs.

    Args:
        scores: float32 (n, 2), nats, of the policy; scored one by one like the reference, so that an unmoved
            policy has margins of exactly 0.
    """
    lengths = [mx.array(column) for column in pair_sizes(data.pairs).T[1:]]
    columns = [mx.array(a) for s in (scores, data.reference) for a in (s[:, 0], s[:, 1])]
    losses = np.array(loss(PairLogps(*columns, *lengths, lengths[0].mean()), beta))
    betas = np.full(len(data.pairs), beta.item(), np.float32)
    metrics = pair_metrics(scores, data.reference, losses, betas)
    own = data.reported({f"eval/{name}": value for name, value in metrics.items()})
    return own | {"eval/pairs": len(data.pairs)}
