"""One window of pairs: loss and gradient, accumulated over micro-batches, then one update."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
import numpy as np
from mlx.utils import tree_flatten, tree_map

from ..data.tokenize import TokenizedPair
from ..errors import DpoError
from ..losses import PairLogps
from ..models.forward import Forward

DIVERGED = "lower optimizer.learning_rate; the run folder holds the adapter of the last evaluation"

LossFunction = Callable[[PairLogps, mx.array], mx.array]


class WindowResult(NamedTuple):
    """What a window showed, pairs in the order they were scored; float32 arrays on the host."""

    rows: list[int]
    policy: np.ndarray
    losses: np.ndarray


class PairGradient(NamedTuple):
    """How the gradient of a few pairs is computed.

    `build(pairs)` lays B pairs out. `compute(batch, reference, beta)`, reference float32 (B, 2) and beta
    float32 (), gives the gradient of the *sum* of the pairs' losses, so that micro-batches of any size add up
    exactly, the losses (B,) and the policy's log-probs (2B,).
    """

    build: Callable[[Sequence[TokenizedPair]], Any]
    compute: Callable[[Any, mx.array, mx.array], tuple[Any, mx.array, mx.array]]


def pair_gradient(
    policy: nn.Module, loss: LossFunction, forward: Forward, *, compiled: bool = False
) -> PairGradient:
    """The gradient of `loss` in the policy's trainable parameters.

    Args:
        compiled: trace once a shape of batch (`mx.compile`); pays where many batches share a shape.
    """

    def compute(batch, reference, beta):
        pairs = len(reference)

        def summed(model):
            logps = forward.score(model, batch, gradient=True)
            lengths = batch.lengths
            losses = loss(
                PairLogps(
                    logps[:pairs],
                    logps[pairs:],
                    reference[:, 0],
                    reference[:, 1],
                    lengths[:pairs],
                    lengths[pairs:],
                ),
                beta,
            )
            return losses.sum(), losses, logps

        # nn.value_and_grad leaves traced copies in the model; the parameters themselves are put back.
        parameters = policy.trainable_parameters()
        try:
            (_, losses, logps), gradient = nn.value_and_grad(policy, summed)(policy)
        finally:
            policy.update(parameters)
        return gradient, losses, logps

    return PairGradient(forward.build, _compiled(policy, compute) if compiled else compute)


def _compiled(policy: nn.Module, compute: Callable[..., Any]) -> Callable[..., Any]:
    """`compute`, traced once for every structure and shape of batch."""
    traces: dict[str, Callable[..., Any]] = {}

    def run(batch, reference, beta):
        def trace(parameters, arrays, reference, beta):
            policy.update(parameters)
            return compute(_filled(batch, iter(arrays)), reference, beta)

        arrays = [array for _, array in tree_flatten(batch)]
        structure = str(tree_map(lambda a: a.ndim, batch))
        if structure not in traces:
            traces[structure] = mx.compile(trace, inputs=mx.random.state, outputs=mx.random.state)
        parameters = policy.trainable_parameters()
        try:
            return traces[structure](parameters, arrays, reference, beta)
        finally:
            policy.update(parameters)

    return run


def _filled(like: Any, arrays: Iterator[mx.array]) -> Any:
    """A batch of the same structure with other arrays."""
    if isinstance(like, mx.array):
        return next(arrays)
    parts = [_filled(part, arrays) for part in like]
    return type(like)(*parts) if hasattr(like, "_fields") else tuple(parts)


def window_gradient(
    gradient: PairGradient,
    pairs: Sequence[TokenizedPair],
    window: Sequence[Sequence[int]],
    reference: np.ndarray,
    beta: mx.array,
    check_interrupt: Callable[[], None] = lambda: None,
) -> tuple[Any, WindowResult]:
    """Mean gradient over all pairs of a window, whatever its micro-batches and however full it is.

    Args:
        window: row numbers, one list a micro-batch.
        reference: float32 (n, 2) of all `pairs`.
        check_interrupt: called before each micro-batch; may raise KeyboardInterrupt.
    """
    total, rows, logps, losses = None, [], [], []
    for micro in window:
        check_interrupt()
        batch = gradient.build([pairs[i] for i in micro])
        micro_gradient, micro_losses, micro_logps = gradient.compute(batch, mx.array(reference[micro]), beta)
        total = micro_gradient if total is None else tree_map(mx.add, total, micro_gradient)
        del micro_gradient
        mx.eval(total, micro_losses, micro_logps)  # memory stays that of one micro-batch
        rows += micro
        losses.append(np.array(micro_losses))
        logps.append(np.array(micro_logps).reshape(2, len(micro)).T)
    mean = tree_map(lambda g: g / len(rows), total)
    return mean, WindowResult(rows, np.concatenate(logps), np.concatenate(losses))


def cap_cache() -> None:
    """Let MLX keep as much freed memory for reuse as a step has needed at most, and no more.

    Without a cap, unequal lengths leave ever more buffers of sizes that no other batch asks for.
    """
    mx.set_cache_limit(max(0, mx.get_peak_memory() - mx.get_active_memory()))


def update(policy: nn.Module, optimizer: optimizers.Optimizer, gradient: Any, grad_clip: float) -> float:
    """Clip the gradient, update the trainable parameters, and give the norm before clipping.

    Raises:
        DpoError: the gradient is not finite; nothing was updated.
    """
    gradient, norm = optimizers.clip_grad_norm(gradient, grad_clip if grad_clip else float("inf"))
    if not math.isfinite(norm.item()):
        raise DpoError("the gradient is not finite", where="optimizer", hint=DIVERGED)
    optimizer.update(policy, gradient)
    mx.eval(policy.trainable_parameters(), optimizer.state)
    return float(norm.item())
