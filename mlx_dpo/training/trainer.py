"""The loop of one run."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
import numpy as np

from ..data.batches import epoch_windows
from ..data.tokenize import TokenizedPair, pair_sizes
from ..errors import DpoError, first_ten
from ..losses import BetaStep, LossFunction, PairLogps
from ..metrics import pair_metrics
from ..settings import setting
from .moving import MovingReference
from .step import DIVERGED, cap_cache, update
from .window import Objective, WindowResult, take_window


@dataclass(frozen=True)
class TrainingConfig:
    """How long, in what portions, and how memory is saved."""

    epochs: int = setting(1, "times every pair is seen")
    micro_batch: int = setting(
        1, "pairs computed at a time; more needs more memory, results differ by rounding"
    )
    accumulation: int = setting(8, "micro-batches an update; micro_batch · accumulation pairs make a window")
    gradient_checkpointing: str = setting(
        "auto",
        "keep only each block's input and compute the rest again: far less memory, about a fifth slower; "
        "auto: where it would not fit otherwise",
        choices=("auto", "on", "off"),
    )
    forward: str = setting(
        "auto",
        "shared: every prompt once for all its answers, logits of answer tokens only; plain: the model's own "
        "call; auto: shared where a check at the start shows the same scores and gradients",
        choices=("auto", "shared", "plain"),
    )
    branches: str = setting(
        "auto",
        "joint: both answers of a pair at a time; separate: one after the other, in less memory; "
        "auto: joint where that fits",
        choices=("auto", "joint", "separate"),
    )
    compile: str = setting(
        "auto",
        "trace the step once a shape of batch; auto: on a GPU, where many batches share few shapes",
        choices=("auto", "on", "off"),
    )
    reference_sync_steps: int | None = setting(
        None,
        "updates after which the adapter as it is becomes the reference, again and again (TR-DPO); each pair "
        "then costs a forward more; null: the reference stays",
    )
    memory_limit: float | None = setting(
        None, "GB that a run may need by its plan; null: what this machine lets it use"
    )
    seed: int = setting(0, "of the adapter's first values and of the order of pairs")
    report_steps: int = setting(1, "updates between lines of metrics.jsonl")
    eval_steps: int | None = setting(
        None, "updates between held-out evaluations; the adapter is saved each time; null: ten times a run"
    )

    def __post_init__(self):
        for name in ("epochs", "micro_batch", "accumulation", "report_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.eval_steps is not None and self.eval_steps < 1:
            raise ValueError(f"eval_steps must be null or at least 1, got {self.eval_steps}")
        if self.reference_sync_steps is not None and self.reference_sync_steps < 1:
            raise ValueError(
                f"reference_sync_steps must be null or at least 1, got {self.reference_sync_steps}"
            )
        if self.memory_limit is not None and self.memory_limit <= 0:
            raise ValueError(f"memory_limit must be null or above 0, got {self.memory_limit}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")

    @property
    def window(self) -> int:
        """Pairs an update."""
        return self.micro_batch * self.accumulation

    def steps(self, pairs: int) -> int:
        """Updates of the whole run; a part-filled last window of an epoch is one too."""
        return self.epochs * -(-pairs // self.window)


class Data(NamedTuple):
    """Pairs and what the reference thinks of them: float32 (n, 2) nats, chosen and rejected."""

    pairs: Sequence[TokenizedPair]
    reference: np.ndarray


@dataclass(frozen=True)
class TrainState:
    """Where a run stands, between two updates: updates done, pairs and tokens seen, beta's state."""

    beta: Any
    step: int = 0
    pairs: int = 0
    tokens: int = 0


def train(
    policy: nn.Module,
    optimizer: optimizers.Optimizer,
    data: Data,
    objective: Objective,
    config: TrainingConfig,
    grad_clip: float,
    *,
    evaluate: Callable[[int], None],
    log: Callable[[dict[str, float]], None],
    keep_margins: Callable[[int, int, np.ndarray], None] | None = None,
    advance: Callable[[int], None] = lambda pairs: None,
    check_interrupt: Callable[[], None] = lambda: None,
) -> TrainState:
    """Update the policy until every epoch is done; every pair is used exactly once an epoch.

    Args:
        evaluate: called with the step every `eval_steps` updates and after the last.
        log: takes one row of metrics.
        keep_margins: takes the epoch, from 0, the step and the margins (n,) of each window.
        advance: called with the pairs of each window.
        check_interrupt: called before every micro-batch; may raise KeyboardInterrupt.
    """
    steps = config.steps(len(data.pairs))
    eval_steps = config.eval_steps or max(1, -(-steps // 10))
    state, interval = TrainState(beta=objective.init(config.seed)), Interval()
    reference = MovingReference(policy, objective.gradient, data.pairs, data.reference)
    pair_tokens = pair_sizes(data.pairs).sum(axis=1)
    for epoch in range(config.epochs):
        for window in epoch_windows(data.pairs, config.window, config.micro_batch, config.seed, epoch):
            start = time.perf_counter()
            policy.train()
            mean, result, beta, next_beta = take_window(
                objective,
                data.pairs,
                window,
                reference.of(window, check_interrupt),
                state.beta,
                check_interrupt,
            )
            _check_finite(result, data, state.step + 1)
            norm = update(policy, optimizer, mean, grad_clip)
            cap_cache()
            rate = float(optimizer.learning_rate.item())  # this update's; before it, the one before's
            tokens = int(pair_tokens[result.rows].sum())
            state = TrainState(
                beta=next_beta,
                step=state.step + 1,
                pairs=state.pairs + len(result.rows),
                tokens=state.tokens + tokens,
            )
            if config.reference_sync_steps and state.step % config.reference_sync_steps == 0:
                reference.sync()
            if keep_margins:
                keep_margins(epoch, state.step, result.margins)
            interval.add(result, beta, tokens, time.perf_counter() - start)
            advance(len(result.rows))
            if state.step == 1 or state.step % config.report_steps == 0 or state.step == steps:
                log(
                    {
                        "step": state.step,
                        "epoch": round(state.pairs / len(data.pairs), 4),
                        **interval.metrics(),
                        "learning_rate": rate,
                        "grad_norm": norm,
                        "tokens": state.tokens,
                        "peak_memory_gb": mx.get_peak_memory() / 1e9,
                    }
                )
                interval = Interval()
            if state.step % eval_steps == 0 or state.step == steps:
                evaluate(state.step)
    return state


def _check_finite(result: WindowResult, data: Data, step: int) -> None:
    """Stop before an update that would put NaN into every weight, naming the rows."""
    bad = [row for row, loss in zip(result.rows, result.losses, strict=True) if not np.isfinite(loss)]
    if bad:
        places = first_ten([data.pairs[row].where for row in bad])
        raise DpoError(f"the loss is not finite at step {step}", where=places, hint=DIVERGED)


class Interval:
    """What was seen since the last report, kept pair by pair so that its means are exact."""

    def __init__(self):
        self.rows: list[int] = []
        self.results: list[WindowResult] = []
        self.betas: list[float] = []
        self.last: dict[str, float] = {}
        self.tokens, self.seconds = 0, 0.0

    def add(self, result: WindowResult, beta: BetaStep, tokens: int, seconds: float) -> None:
        """Take note of one window and what beta's rule made of it."""
        self.rows += result.rows
        self.results.append(result)
        self.betas += [beta.beta.item()] * len(result.rows)
        self.last = {name: float(metric.item()) for name, metric in beta.metrics.items()}
        self.tokens += tokens
        self.seconds += seconds

    def metrics(self) -> dict[str, float]:
        """Means over all pairs of the interval, what beta's rule said last, and the rates of work."""
        means = pair_metrics(
            np.concatenate([r.policy for r in self.results]),
            np.concatenate([r.reference for r in self.results]),
            np.concatenate([r.losses for r in self.results]),
            np.array(self.betas),
        )
        return means | {
            "beta": self.betas[-1],
            **self.last,
            "tokens_per_second": self.tokens / self.seconds,
            "pairs_per_second": len(self.rows) / self.seconds,
        }


def evaluation_metrics(
    scores: np.ndarray, data: Data, loss: LossFunction, beta: mx.array
) -> dict[str, float]:
    """Metrics of held-out pairs with these scores, under eval/ names, and their number as eval/pairs.

    Args:
        scores: float32 (n, 2), nats, of the policy; scored one by one as the reference was, a policy that has
            not moved has margins of exactly 0.
    """
    lengths = [mx.array(column) for column in pair_sizes(data.pairs).T[1:]]
    columns = [mx.array(a) for s in (scores, data.reference) for a in (s[:, 0], s[:, 1])]
    losses = np.array(loss(PairLogps(*columns, *lengths, lengths[0].mean()), beta))
    betas = np.full(len(data.pairs), beta.item(), np.float32)
    metrics = pair_metrics(scores, data.reference, losses, betas)
    return {f"eval/{k}": v for k, v in metrics.items()} | {"eval/pairs": len(data.pairs)}
