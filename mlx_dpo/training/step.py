"""The gradient of a few pairs, and one update."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
from mlx.utils import tree_flatten, tree_map

from ..data.tokenize import TokenizedPair
from ..forward.pair_logps import Forward
from ..losses import LossFunction, PairLogps


class PairGradient(NamedTuple):
    """How B pairs, as a batch from `build(pairs)`, are scored and differentiated.

    `compute(batch, reference, beta, mean_length)`, float32 (B, 2), () and (), gives the gradient of the *sum*
    of the pairs' losses, so that micro-batches of any size add up exactly, the losses (B,) and the policy's
    log-probs (2B,), chosen ones first. `weigh(batch, weights)`, float32 (2B,), gives the gradient of the
    weighted sum of log-probs, and the log-probs; `score(batch, agreement)` gives the log-probs only, or
    (2B, 2), see `Forward`.
    """

    build: Callable[[Sequence[TokenizedPair]], Any]
    compute: Callable[[Any, mx.array, mx.array, mx.array], tuple[Any, mx.array, mx.array]]
    weigh: Callable[[Any, mx.array], tuple[Any, mx.array]]
    score: Callable[[Any, bool], mx.array]


def pair_gradient(
    policy: nn.Module, loss: LossFunction, forward: Forward, *, compiled: bool = False
) -> PairGradient:
    """The gradient of `loss` in the policy's trainable parameters.

    Args:
        compiled: trace once per batch shape (`mx.compile`); useful if many batches share a shape.
    """

    def differentiate(batch, total):
        def summed(model):
            logps = forward.score(model, batch, gradient=True)
            return *total(logps), logps

        # nn.value_and_grad leaves traced copies in the model; the parameters themselves are put back.
        parameters = policy.trainable_parameters()
        try:
            (_, *others), gradient = nn.value_and_grad(policy, summed)(policy)
        finally:
            policy.update(parameters)
        return gradient, *others

    def compute(batch, reference, beta, mean_length):
        def total(logps):
            losses = loss(pair_logps(logps, reference, batch.lengths, mean_length), beta)
            return losses.sum(), losses

        return differentiate(batch, total)

    def weigh(batch, weights):
        return differentiate(batch, lambda logps: ((weights * logps).sum(),))

    def score(batch, agreement):
        return forward.score(policy, batch, gradient=False, agreement=agreement)

    if compiled:
        compute, weigh = _compiled(policy, compute), _compiled(policy, weigh)
    return PairGradient(forward.build, compute, weigh, score)


def pair_logps(logps: mx.array, reference: mx.array, lengths: mx.array, mean_length: mx.array) -> PairLogps:
    """The input of a loss for B pairs: log-probs and lengths (2B,), chosen first, reference (B, 2)."""
    pairs = len(reference)
    return PairLogps(
        logps[:pairs],
        logps[pairs:],
        reference[:, 0],
        reference[:, 1],
        lengths[:pairs],
        lengths[pairs:],
        mean_length,
    )


def _compiled(policy: nn.Module, compute: Callable[..., Any]) -> Callable[..., Any]:
    """`compute`, traced once for every structure and shape of batch."""
    traces: dict[str, Callable[..., Any]] = {}

    def run(batch, *others):
        def trace(parameters, arrays, *others):
            policy.update(parameters)
            return compute(_filled(batch, iter(arrays)), *others)

        arrays = [array for _, array in tree_flatten(batch)]
        structure = str(tree_map(lambda a: a.ndim, batch))
        if structure not in traces:
            traces[structure] = mx.compile(trace, inputs=mx.random.state, outputs=mx.random.state)
        parameters = policy.trainable_parameters()
        try:
            return traces[structure](parameters, arrays, *others)
        finally:
            policy.update(parameters)

    return run


def _filled(like: Any, arrays: Iterator[mx.array]) -> Any:
    """A batch of the same structure with other arrays."""
    if isinstance(like, mx.array):
        return next(arrays)
    parts = [_filled(part, arrays) for part in like]
    return type(like)(*parts) if hasattr(like, "_fields") else tuple(parts)


def cap_cache() -> None:
    """Let MLX keep only as much freed memory for reuse as a step has needed at most.

    Without this limit, unequal lengths leave more and more buffers of sizes that no other batch needs.
    """
    mx.set_cache_limit(max(0, mx.get_peak_memory() - mx.get_active_memory()))


def update(policy: nn.Module, optimizer: optimizers.Optimizer, gradient: Any, grad_clip: float) -> float:
    """Clip the gradient, update the trainable parameters, and give the norm before clipping.

    If the norm is not finite, nothing is updated.
    """
    gradient, norm = optimizers.clip_grad_norm(gradient, grad_clip if grad_clip else float("inf"))
    if math.isfinite(norm.item()):
        optimizer.update(policy, gradient)
        mx.eval(policy.trainable_parameters(), optimizer.state)
    return float(norm.item())
