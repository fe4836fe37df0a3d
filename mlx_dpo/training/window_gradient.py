"""The gradient of one window of pairs: in one pass if every pair has its own loss, otherwise in two."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map

from ..data.tokenize import TokenizedPair, pair_sizes
from ..losses import BetaRule, BetaStep, LossFunction
from .step import PairGradient, pair_logps

Window = Sequence[Sequence[int]]
"""Row numbers, one list per micro-batch."""


def _never() -> None:
    pass


class WindowResult(NamedTuple):
    """Scores and losses of a window, with pairs in the window's order; float32 arrays on the host.

    `policy`, `reference` (n, 2): log-probs, chosen and rejected. `losses` (n,): loss of each pair times its
    weight; the mean of these is minimised.
    """

    rows: list[int]
    policy: np.ndarray
    reference: np.ndarray
    losses: np.ndarray

    @property
    def margins(self) -> np.ndarray:
        """Chosen minus rejected log-ratio, without beta (n,)."""
        return margins_of(self.policy, self.reference)


class Objective(NamedTuple):
    """What is minimised over a window of pairs.

    `passes`: "one": the loss of a pair does not depend on other pairs; "two": all pairs are scored before the
    first gradient; "deferred": the gradient of each pair's margin is kept until all pairs are scored, which
    needs a loss of the margin and micro-batches of one pair. `agreement`: each pair is weighted by the
    probability of its answers under the policy (WPO, Zhou et al. 2024, arXiv:2406.11827). `shift`: the
    running mean of the rewards is subtracted (`bco_pair`, Jung et al. 2024, arXiv:2404.04656). Both need two
    passes.
    """

    gradient: PairGradient
    loss: LossFunction
    rule: BetaRule
    passes: str = "one"
    agreement: bool = False
    shift: bool = False

    def init(self, seed: int) -> Any:
        """The state before the first window."""
        state = self.rule.init(seed)
        return ShiftedState(state, mx.array(0.0), mx.array(0)) if self.shift else state


class ShiftedState(NamedTuple):
    """The rule's state, and the mean reward over `windows` windows, ()."""

    rule: Any
    mean: mx.array
    windows: mx.array


def take_window(
    objective: Objective,
    pairs: Sequence[TokenizedPair],
    window: Window,
    reference: np.ndarray,
    state: Any,
    check_interrupt: Callable[[], None] = _never,
) -> tuple[Any, WindowResult, BetaStep, Any]:
    """The mean gradient over a window's pairs, their results, the step of beta and its next state.

    Args:
        reference: float32 (n, 2) of all `pairs`.
        state: the objective's.
        check_interrupt: called before each micro-batch; may raise KeyboardInterrupt.
    """
    if objective.passes == "one":
        beta = state.beta.astype(mx.float32, stream=mx.cpu)
        mean, result = window_gradient(objective.gradient, pairs, window, reference, beta, check_interrupt)
        return mean, result, *objective.rule.update(mx.array(result.margins), state)
    take = _deferred if objective.passes == "deferred" else _twice
    return take(objective, pairs, window, reference, state, check_interrupt)


def window_gradient(
    gradient: PairGradient,
    pairs: Sequence[TokenizedPair],
    window: Window,
    reference: np.ndarray,
    beta: mx.array,
    check_interrupt: Callable[[], None] = _never,
) -> tuple[Any, WindowResult]:
    """Mean gradient over all pairs of a window; independent of its micro-batches."""
    total, rows, logps, losses = None, [row for micro in window for row in micro], [], []
    mean_length = _mean_length(_sizes(pairs, rows))
    for micro in window:
        check_interrupt()
        batch = gradient.build([pairs[i] for i in micro])
        more, micro_losses, micro_logps = gradient.compute(
            batch, mx.array(reference[micro]), beta, mean_length
        )
        total = _added(total, more)
        del more
        mx.eval(total, micro_losses, micro_logps)  # memory for only one micro-batch
        losses.append(np.array(micro_losses))
        logps.append(_by_pair(micro_logps))
    result = WindowResult(rows, np.concatenate(logps), reference[rows], np.concatenate(losses))
    return _divided(total, len(rows)), result


def _twice(
    objective: Objective,
    pairs: Sequence[TokenizedPair],
    window: Window,
    reference: np.ndarray,
    state: Any,
    check_interrupt: Callable[[], None],
) -> tuple[Any, WindowResult, BetaStep, Any]:
    """Score all pairs; then compute gradients of the pairs that count, with weights from the loss."""
    gradient, rows, logps = objective.gradient, [row for micro in window for row in micro], []
    for micro in window:
        check_interrupt()
        scored = gradient.score(gradient.build([pairs[i] for i in micro]), objective.agreement)
        logps.append(np.array(scored).reshape(2, len(micro), -1))
    scores = np.concatenate(logps, axis=1)  # chosen and rejected, pairs, log-prob and perhaps agreement
    policy, counts = scores[..., 0].T, np.exp(scores[..., 1:].sum(axis=(0, 2)))
    slopes, losses, step, state = _slopes(objective, pairs, rows, policy, reference, state, counts)
    slope_of = dict(zip(rows, slopes, strict=True))
    total = None
    for micro in window:
        counted = [row for row in micro if slope_of[row].any()]
        if not counted and total is None and micro is window[-1]:
            counted = micro[:1]  # no pair of the window counts: the gradient is 0
        if counted:
            check_interrupt()
            weights = mx.array(np.concatenate([[slope_of[row][side] for row in counted] for side in (0, 1)]))
            total = _added(total, gradient.weigh(gradient.build([pairs[i] for i in counted]), weights)[0])
            mx.eval(total)
    return _divided(total, len(rows)), WindowResult(rows, policy, reference[rows], losses), step, state


def _deferred(
    objective: Objective,
    pairs: Sequence[TokenizedPair],
    window: Window,
    reference: np.ndarray,
    state: Any,
    check_interrupt: Callable[[], None],
) -> tuple[Any, WindowResult, BetaStep, Any]:
    """Compute the gradient of every pair's margin, and weight the gradients when all margins are known."""
    gradient, rows, logps, kept = objective.gradient, [row for (row,) in window], [], []
    for row in rows:
        check_interrupt()
        margin_gradient, scored = gradient.weigh(gradient.build([pairs[row]]), mx.array([1.0, -1.0]))
        mx.eval(margin_gradient, scored)
        kept.append(margin_gradient)
        logps.append(_by_pair(scored))
    policy = np.concatenate(logps)
    slopes, losses, step, state = _slopes(objective, pairs, rows, policy, reference, state)
    total = None
    for (slope, _), margin_gradient in zip(slopes.tolist(), kept, strict=True):
        total = _added(total, tree_map(lambda g, slope=slope: slope * g, margin_gradient))
    return _divided(total, len(rows)), WindowResult(rows, policy, reference[rows], losses), step, state


def _slopes(
    objective: Objective,
    pairs: Sequence[TokenizedPair],
    rows: Sequence[int],
    policy: np.ndarray,
    reference: np.ndarray,
    state: Any,
    counts: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, BetaStep, Any]:
    """Derivatives of the weighted losses in the log-probs (n, 2), these losses (n,), step and state."""
    sizes, reference = _sizes(pairs, rows), reference[rows]
    own = state.rule if objective.shift else state
    step, own = objective.rule.update(mx.array(margins_of(policy, reference)), own)
    if objective.shift:
        rewards = step.beta * float((policy - reference).mean())
        mean = (state.windows * state.mean + rewards) / (state.windows + 1)
        own = ShiftedState(own, mean, state.windows + 1)
    lengths = mx.array(sizes[:, 1:].T.flatten())
    weights = step.weights if counts is None else step.weights * mx.array(counts)

    def losses(logps):
        given = pair_logps(logps, mx.array(reference), lengths, _mean_length(sizes))
        if objective.shift:
            given = given._replace(shift=own.mean)
        return weights * objective.loss(given, step.beta)

    logps = mx.array(policy.T.flatten())
    slopes = mx.grad(lambda logps: losses(logps).sum())(logps)
    return _by_pair(slopes), np.array(losses(logps)), step, own


def _sizes(pairs: Sequence[TokenizedPair], rows: Sequence[int]) -> np.ndarray:
    return pair_sizes([pairs[row] for row in rows])


def _mean_length(sizes: np.ndarray) -> mx.array:
    return mx.array(sizes[:, 1].mean(), mx.float32)


def margins_of(policy: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Margins (n,) of log-probs (n, 2) of policy and reference, without beta."""
    return (policy - reference) @ np.array([1, -1], np.float32)


def _by_pair(logps: mx.array) -> np.ndarray:
    """(2B,), chosen ones first, to (B, 2)."""
    return np.array(logps).reshape(2, -1).T


def _added(total: Any, more: Any) -> Any:
    return more if total is None else tree_map(mx.add, total, more)


def _divided(total: Any, count: int) -> Any:
    return tree_map(lambda g: g / count, total)
