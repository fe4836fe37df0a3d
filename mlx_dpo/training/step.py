"""One window of pairs: loss and gradient, accumulated over micro-batches, then one update."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
import numpy as np
from mlx.utils import tree_map

from ..data.batches import PairBatch, build_batch
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


def micro_gradient(
    policy: nn.Module,
    batch: PairBatch,
    reference: mx.array,
    beta: mx.array,
    loss: LossFunction,
    forward: Forward,
) -> tuple[Any, mx.array, mx.array]:
    """Gradient of the *sum* of the pairs' losses, so that micro-batches of any size add up exactly.

    Args:
        reference: float32 (B, 2), chosen and rejected.
        beta: float32 ().

    Returns:
        The gradient of the trainable parameters, the losses (B,), the policy's log-probs (2B,).
    """
    lengths = batch.mask.sum(axis=-1)
    pairs = len(reference)

    def summed(model):
        logps = forward.score(model, batch)
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
    (_, losses, logps), gradient = nn.value_and_grad(policy, summed)(policy)
    policy.update(parameters)
    return gradient, losses, logps


def window_gradient(
    policy: nn.Module,
    pairs: Sequence[TokenizedPair],
    window: Sequence[Sequence[int]],
    reference: np.ndarray,
    beta: mx.array,
    loss: LossFunction,
    forward: Forward,
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
        batch = build_batch([pairs[i] for i in micro])
        gradient, micro_losses, micro_logps = micro_gradient(
            policy, batch, mx.array(reference[micro]), beta, loss, forward
        )
        total = gradient if total is None else tree_map(mx.add, total, gradient)
        del gradient
        mx.eval(total, micro_losses, micro_logps)  # memory stays that of one micro-batch
        rows += micro
        losses.append(np.array(micro_losses))
        logps.append(np.array(micro_logps).reshape(2, len(micro)).T)
    mean = tree_map(lambda g: g / len(rows), total)
    return mean, WindowResult(rows, np.concatenate(logps), np.concatenate(losses))


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
