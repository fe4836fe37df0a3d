"""Log-probabilities of completions from hidden states; logits exist for a few tokens at a time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from .custom import checkpoint, custom_function
from .trunk import head

_LOGITS = {mx.cpu: 2**18, mx.gpu: 2**22}
"""Logits formed at a time: 1 MB in float32, 16 MB on a GPU. About ten such arrays are in flight at once."""
_TOKENS = 16
"""Fewest tokens whose logits are formed at a time, however large the vocabulary."""
_planned: list[mx.DeviceType] = []


@contextmanager
def chunks_as_on(device: mx.DeviceType) -> Iterator[None]:
    """Within it, as many logits are formed at a time as on `device`, to plan for it on another machine."""
    _planned.append(device)
    try:
        yield
    finally:
        _planned.pop()


def score_tokens(
    model: nn.Module, hidden: mx.array, targets: mx.array, owners: mx.array, rows: int, *, gradient: bool
) -> mx.array:
    """Sum of log p(target) over each row's tokens: float32 (rows,), nats.

    Peak memory does not depend on T · V.

    Args:
        hidden: (T, H), the state before each target.
        targets, owners: (T,) integers: token ids, and the row each belongs to.
        gradient: the result will be differentiated. With a frozen head, d score / d hidden is then formed
            with the scores, chunk by chunk, so that no logits are formed again in the backward pass.
    """
    if not gradient:
        return _summed(_one_by_one(model, hidden, targets), owners, rows)
    if _head_is_trained(model):
        return _summed(_recomputed(model, hidden, targets), owners, rows)

    @custom_function
    def scores(hidden):
        logps, slopes = _with_slopes(model, hidden, targets)
        return _summed(logps, owners, rows), slopes

    @scores.vjp
    def scores_vjp(primals, cotangents, outputs):
        weights = mx.where(_belongs(owners, rows), cotangents[0][:, None], 0.0).sum(axis=0)
        return (weights[:, None] * outputs[1]).astype(primals.dtype)

    return scores(hidden)[0]


def _summed(logps: mx.array, owners: mx.array, rows: int) -> mx.array:
    return mx.where(_belongs(owners, rows), logps[None], 0.0).sum(axis=-1)


def _belongs(owners: mx.array, rows: int) -> mx.array:
    """(rows, T): whose token it is; padding has an owner that is no row."""
    return owners[None] == mx.arange(rows)[:, None]


def _chunks(model: nn.Module, hidden: mx.array) -> list[slice]:
    vocabulary = _logits(model, hidden[:1]).shape[-1]
    size = max(_TOKENS, _LOGITS[_planned[-1] if _planned else mx.default_device().type] // vocabulary)
    return [slice(start, start + size) for start in range(0, hidden.shape[0], size)]


def _logits(model: nn.Module, hidden: mx.array) -> mx.array:
    return head(model, hidden[None])[0]


def _one_by_one(model: nn.Module, hidden: mx.array, targets: mx.array) -> mx.array:
    parts: list[mx.array] = []
    for part in _chunks(model, hidden):
        rows = hidden[part]
        if parts:  # one chunk after the other, so that only one chunk's logits exist
            rows = mx.depends([rows], parts[-1:])[0]
        parts.append(_logps(_logits(model, rows), targets[part])[0])
    return mx.concatenate(parts)


def _recomputed(model: nn.Module, hidden: mx.array, targets: mx.array) -> mx.array:
    """For a trained head: logits are formed once more in the backward pass, also chunk by chunk."""
    parts = []
    for part in _chunks(model, hidden):

        def run(parameters, rows, part=part):
            model.update(parameters)
            return _logps(_logits(model, rows), targets[part])[0]

        parts.append(checkpoint(run)(model.trainable_parameters(), hidden[part]))
    return mx.concatenate(parts)


def _with_slopes(model: nn.Module, hidden: mx.array, targets: mx.array) -> tuple[mx.array, mx.array]:
    """log p of every target (T,) and its gradient in the hidden state (T, H)."""
    logps, slopes = [], []
    for part in _chunks(model, hidden):
        rows = hidden[part]
        if logps:
            rows = mx.depends([rows], [logps[-1], slopes[-1]])[0]
        logp, slope = _chunk_with_slope(lambda h: _logits(model, h), rows, targets[part])
        logps.append(logp)
        slopes.append(slope)
    return mx.concatenate(logps), mx.concatenate(slopes)


def _chunk_with_slope(
    logits: Callable[[mx.array], mx.array], hidden: mx.array, targets: mx.array
) -> tuple[mx.array, mx.array]:
    """d log p / d logits is one-hot minus softmax; the head's own vjp carries it to the hidden state."""
    raw = logits(hidden)
    logps, chances = _logps(raw, targets)
    targets = targets[:, None]
    at_target = mx.take_along_axis(chances, targets, axis=-1) - 1
    slope = mx.put_along_axis(chances, targets, at_target, axis=-1).astype(raw.dtype)
    _, (slope,) = mx.vjp(logits, [hidden], [slope])
    return logps, -slope


def _logps(logits: mx.array, targets: mx.array) -> tuple[mx.array, mx.array]:
    """log p of the targets (T,), and p of the whole vocabulary (T, V); float32.

    One pass of exponentials gives both: log p is the target minus the largest logit plus log of the largest
    p, which is at least 1/V. The same with and without a gradient, so that an unmoved policy scores as its
    reference to the bit.
    """
    logits = logits.astype(mx.float32)
    chances = mx.softmax(logits, axis=-1)
    picked = mx.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
    return picked - logits.max(axis=-1) + mx.log(chances.max(axis=-1)), chances


def _head_is_trained(model: nn.Module) -> bool:
    inside = {id(v) for layer in model.layers for _, v in tree_flatten(layer.trainable_parameters())}
    return any(id(v) not in inside for _, v in tree_flatten(model.trainable_parameters()))
