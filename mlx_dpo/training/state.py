"""The state of a run between two updates: everything that it needs to continue, bit for bit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from ..console import plural
from ..losses import BetaStep
from ..metrics import pair_metrics
from .window_gradient import WindowResult


def _none(*shape: int, dtype: type = np.float32) -> Any:
    return field(default_factory=lambda: np.zeros(shape, dtype))


@dataclass(frozen=True)
class Interval:
    """The pairs since the last report, one by one, so that their means are exact.

    float32 `policy`, `reference` (n, 2), `losses` (n,); float64 `betas` (n,). `said`: the beta rule's metrics
    for the last window. `tokens`, `seconds`: amount of work. float64 `divergences` (m,): of rehearsed texts.
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
        """The interval with one more window, and the beta rule's metrics for it."""
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
        """Means over all pairs of the interval, the last metrics of the beta rule, and the speed."""
        means = pair_metrics(self.policy, self.reference, self.losses, self.betas)
        return means | {
            "beta": float(self.betas[-1]),
            **self.said,
            **({"rehearsal/divergence": float(self.divergences.mean())} if len(self.divergences) else {}),
            "tokens_per_second": self.tokens / self.seconds,
            "pairs_per_second": len(self.losses) / self.seconds,
        }


class Best(NamedTuple):
    """The evaluation with the lowest held-out loss: its metrics, and the number of evaluations after it."""

    row: Mapping[str, float]
    since: int = 0

    @property
    def step(self) -> int:
        """Number of updates before this evaluation."""
        return int(self.row["step"])


@dataclass(frozen=True)
class TrainState:
    """Updates done, pairs and tokens seen, and everything besides the weights that the next update needs.

    `beta`: the state of the beta rule. `random`: MLX's random key. `reference`: the parameters of a moving
    reference at its last sync. `skipped`: windows skipped in a row. `evaluated`: the step of the last
    evaluation, `held_out` its metrics. `forgotten`: number of first evaluations that later ones cannot be
    compared with, because settings have changed. `stopped`: why the run ended before its last update.
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
        """The state after an evaluation at this step.

        Args:
            row: its metrics; None without held-out pairs.
            patience: the run ends after this many evaluations in a row without a lower loss.
            ruin: what is damaging the policy, or ""; with a damaged policy, this adapter is not the best.
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
