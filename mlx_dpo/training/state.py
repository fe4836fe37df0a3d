"""Where a run stands between two updates: all that it needs to go on, bit for bit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from ..console import plural
from ..losses import BetaStep
from ..metrics import pair_metrics
from .window import WindowResult


def _none(*shape: int, dtype: type = np.float32) -> Any:
    return field(default_factory=lambda: np.zeros(shape, dtype))


@dataclass(frozen=True)
class Interval:
    """What was seen since the last report, pair by pair, so that its means are exact.

    float32 `policy`, `reference` (n, 2), `losses` (n,); float64 `betas` (n,). `said`: what beta's rule made
    of the last window. `tokens` in so many `seconds`. float64 `divergences` (m,): of rehearsed texts.
    """

    policy: np.ndarray = _none(0, 2)
    reference: np.ndarray = _none(0, 2)
    losses: np.ndarray = _none(0)
    betas: np.ndarray = _none(0, dtype=np.float64)
    divergences: np.ndarray = _none(0, dtype=np.float64)
    said: Mapping[str, float] = field(default_factory=dict)
    tokens: int = 0
    seconds: float = 0.0

    def after(
        self,
        result: WindowResult,
        beta: BetaStep,
        divergences: Sequence[float],
        tokens: int,
        seconds: float,
    ) -> "Interval":
        """With one window more, and what beta's rule made of it."""
        return Interval(
            np.concatenate([self.policy, result.policy]),
            np.concatenate([self.reference, result.reference]),
            np.concatenate([self.losses, result.losses]),
            np.concatenate([self.betas, np.full(len(result.rows), beta.beta.item())]),
            np.concatenate([self.divergences, divergences]),
            {name: float(metric.item()) for name, metric in beta.metrics.items()},
            self.tokens + tokens,
            self.seconds + seconds,
        )

    def metrics(self) -> dict[str, float]:
        """Means over all pairs of the interval, what beta's rule said last, and the rates of work."""
        means = pair_metrics(self.policy, self.reference, self.losses, self.betas)
        return means | {
            "beta": float(self.betas[-1]),
            **self.said,
            **({"rehearsal/divergence": float(self.divergences.mean())} if len(self.divergences) else {}),
            "tokens_per_second": self.tokens / self.seconds,
            "pairs_per_second": len(self.losses) / self.seconds,
        }


class Best(NamedTuple):
    """The evaluation of the lowest held-out loss: its row of metrics, and how many came after it."""

    row: Mapping[str, float]
    since: int = 0

    @property
    def step(self) -> int:
        """After how many updates it was."""
        return int(self.row["step"])


@dataclass(frozen=True)
class TrainState:
    """Updates done, pairs and tokens seen, and what the next update depends on besides the weights.

    `beta`: the state of beta's rule. `random`: MLX's own key. `reference`: the parameters that a moving
    reference took last. `skipped`: windows skipped in a row. `evaluated`: the step of the last evaluation,
    `held_out` its row of metrics. `forgotten`: the run's first evaluations, with which later ones cannot be
    compared, because what they measure was changed. `stopped`: why the run ended before its last update.
    """

    beta: Any
    random: mx.array
    reference: Any = None
    step: int = 0
    pairs: int = 0
    tokens: int = 0
    skipped: int = 0
    evaluated: int = -1
    held_out: Mapping[str, float] | None = None
    best: Best | None = None
    forgotten: int = 0
    stopped: str = ""
    interval: Interval = field(default_factory=Interval)

    def after_evaluation(
        self, row: Mapping[str, float] | None, patience: int | None, ruin: str = ""
    ) -> "TrainState":
        """With the evaluation of this step.

        Args:
            row: its metrics; None where there are no held-out pairs.
            patience: evaluations in a row without a lower loss after which the run ends.
            ruin: what is damaging the policy: then this adapter is not the best.
        """
        state = replace(self, evaluated=self.step, held_out=row)
        if row is None or (ruin and self.best is None):
            return state
        if ruin:
            return replace(state, best=self.best._replace(since=self.best.since + 1))
        if self.best is None or row["eval/loss"] < self.best.row["eval/loss"]:
            return replace(state, best=Best(row))
        best = self.best._replace(since=self.best.since + 1)
        ended = (
            f"no lower held-out loss in {plural(best.since, 'evaluation')}"
            if patience and best.since >= patience
            else ""
        )
        return replace(state, best=best, stopped=ended)
