"""Training in a run's folder, from the beginning or from a checkpoint to the end."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from ..config import RunConfig
from ..console import progress
from ..data.tokenize import pair_sizes
from ..errors import DpoError
from ..forward.scoring import score_pairs, singles
from ..losses import beta_rule, build_loss
from ..machine.interrupt import between_micro_batches
from ..monitoring.alarm_watch import Watch
from ..monitoring.alarms import About
from ..monitoring.callback import Callback, Listener
from ..monitoring.margin_files import write_margins
from ..monitoring.run_log import RunLog
from ..monitoring.samples import Asked, first_answers, sample_answers, sample_metrics, write_samples
from ..monitoring.trackers import open_trackers
from ..optimizers import build_optimizer
from ..records import prompt_text
from ..settings import as_plain
from ..storage.checksummed_folder import Sealed
from ..training.checkpoint_folder import CHECKPOINTS
from ..training.not_finite import DIVERGED
from ..training.state import TrainState
from ..training.step import pair_gradient
from ..training.trainer import Data, evaluation_metrics, first_state, train
from ..training.window_gradient import Objective
from .prepare import Prepared
from .resume import filled_in
from .run_folder import restored, save, start_folder


class TrainResult(NamedTuple):
    """The run's folder, and the held-out metrics of its adapter if there were held-out pairs."""

    folder: Path
    held_out: Mapping[str, float] | None


def fit(
    run: Prepared, folder: Path, checkpoint: Sealed | None, callback: Callback | None = None
) -> TrainResult:
    """Train in `folder`, from a checkpoint or from the beginning; an interrupt is passed on after saving."""
    config, policy, amounts = run.config, run.policy, run.amounts
    steps = config.training.updates(len(run.data.pairs), amounts.epochs)
    log = RunLog(folder, steps)
    loss, rule = build_loss(config.loss), beta_rule(config.beta)
    gradient = pair_gradient(policy, loss, run.forward, compiled=run.layout.compiled)
    objective = Objective(gradient, loss, rule, config.passes, config.loss.wpo, config.loss.bco_shift)
    optimizer = build_optimizer(config.optimizer, amounts.learning_rate, steps)
    optimizer.init(policy.trainable_parameters())
    state = first_state(objective, config.training)
    if checkpoint:
        state = restored(checkpoint, run, optimizer, state, log)
    start_folder(run, folder, anew=checkpoint is None)
    start = mx.get_peak_memory()
    mx.reset_peak_memory()
    settled = as_plain(filled_in(config, run.layout, amounts))
    total = amounts.epochs * len(run.data.pairs)
    with (
        open_trackers(config.run.report_to, folder, settled, log.rows()) as trackers,
        between_micro_batches(folder / CHECKPOINTS) as check_interrupt,
        progress("training", total, "pairs", state.pairs) as advance,
    ):
        listener = Listener(callback, trackers.row)
        watch = Watch(log, _about(run, steps, start), config.training.guard, listener.row, state.forgotten)
        state = train(
            policy,
            optimizer,
            run.data,
            objective,
            config.training,
            config.optimizer.grad_clip,
            amounts.epochs,
            state,
            rehearsal=run.rehearsal,
            evaluate=_evaluation(run, folder, watch, check_interrupt),
            save=partial(save, run, folder, optimizer, log),
            log=lambda row: watch.report({**row, **run.memory.row()}),
            note=log.note,
            keep_margins=partial(write_margins, folder) if config.run.margin_files else None,
            advance=advance,
            check_interrupt=check_interrupt,
            ended=lambda: listener.ended,
        )
        _say_end(state, steps, config, log)
        log.note(state.step, "memory", run.memory.summary(start, mx.get_peak_memory()))
    return TrainResult(folder, selected(state.best and {"row": state.best.row}, state.held_out, config))


def selected(
    best: Mapping[str, Any] | None, last: Mapping[str, float] | None, config: RunConfig
) -> Mapping[str, float] | None:
    """The held-out metrics of the adapter that the run folder keeps."""
    return best["row"] if best and config.training.select == "best" else last


def _evaluation(
    run: Prepared, folder: Path, watch: Watch, check_interrupt: Callable[[], None]
) -> Callable[[int], tuple[Mapping[str, float] | None, str]]:
    """How held-out pairs are evaluated: a function of the step, see `training.trainer.train`."""
    config, policy, held_out = run.config, run.policy, run.held_out
    if held_out is None:
        return lambda step: (None, "")
    loss, asked = build_loss(config.loss), _asked(held_out, config.training.samples)
    beta = mx.array(config.beta.value)  # also if a rule changes beta: held-out losses stay comparable
    forward, singly = run.forward, singles(held_out.pairs)

    def evaluate(step: int) -> tuple[Mapping[str, float], str]:
        scores = score_pairs(policy, held_out.pairs, forward, singly, lambda pairs: check_interrupt())
        row = {"step": step, **evaluation_metrics(scores, held_out, loss, beta)}
        if not np.isfinite(list(row.values())).all():
            raise DpoError(f"held-out scores are not finite at step {step}", where=folder, hint=DIVERGED)
        if asked.tokens:
            answers = sample_answers(policy, run.tokenizer, asked, config.training.sample_tokens)
            write_samples(folder, step, asked.texts, answers)
            own = sample_metrics(asked, answers, first_answers(folder), run.tokenizer)
            row |= {f"eval/{name}": value for name, value in own.items()}
        return row, watch.evaluation(row)

    return evaluate


def _asked(held_out: Data, count: int) -> Asked:
    """The prompts that are answered at every evaluation: different ones, spread over the held-out rows."""
    if not count:
        return Asked([], [])
    rows: dict[bytes, int] = {}
    for row in np.linspace(0, len(held_out.pairs) - 1, 4 * count).round().astype(int).tolist():
        rows.setdefault(held_out.pairs[row].prompt.tobytes(), row)
    chosen = list(rows.values())[:: max(1, len(rows) // count)][:count]
    texts = [prompt_text(held_out.pairs.texts[row].prompt) for row in chosen]
    return Asked(texts, [held_out.pairs[row].prompt.tolist() for row in chosen])


def _about(run: Prepared, steps: int, start: int) -> About:
    _, chosen, rejected = pair_sizes(run.held_out.pairs).mean(axis=0).tolist() if run.held_out else (0.0,) * 3
    loss = run.config.loss
    return About(
        steps,
        chosen,
        rejected,
        loss.vanishes,
        loss.per_token,
        run.amounts.epochs,
        run.amounts.learning_rate,
        loss.answers_only,
        held_gb=run.memory.before / 1e9,
        start_gb=start / 1e9,
    )


def _say_end(state: TrainState, steps: int, config: RunConfig, log: RunLog) -> None:
    """Say why a run ended early, and which adapter it keeps if that is not the last one."""
    if state.step < steps:
        log.note(state.step, "stopped", f"the run ends at step {state.step} of {steps}: {state.stopped}")
    if state.best and state.best.step < state.step and config.training.select == "best":
        what = f"the run folder keeps the adapter of step {state.best.step}, with the lowest held-out loss"
        log.note(state.best.step, "best", what)
