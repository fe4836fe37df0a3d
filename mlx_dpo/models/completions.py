"""Log-probabilities of completions from hidden states; logits exist for a few tokens at a time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from .custom import checkpoint, custom_function
from .trunk import head

_LOGITS = {mx.cpu: 2**19, mx.gpu: 2**22}
"""Most logits formed at a time: 2 MB in float32, on a GPU 16 MB. About ten such arrays are in flight."""
_CHUNKS = 6
"""Chunks at least: what is in flight of a short answer's logits would outgrow what its blocks keep."""
_TOKENS = 16
"""Logits are formed for a multiple of so many tokens, however large the vocabulary."""
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
    model: nn.Module, hidden: mx.array, targets: mx.array, mask: mx.array, *, gradient: bool
) -> mx.array:
    """Sum of log p(target) over each row's scored tokens: float32 (N,), nats.

    Peak memory does not depend on N · T · V.

    Args:
        hidden: (N, T, H), the state before each target.
        targets, mask: (N, T): token ids, and which of them are scored.
        gradient: the result will be differentiated. With a frozen head, d score / d hidden is then formed
            with the scores, chunk by chunk, so that no logits are formed again in the backward pass.
    """
    width, targets = hidden.shape[-1], targets.flatten()

    def summed(logps):
        return mx.where(mask, logps.reshape(mask.shape), 0.0).sum(axis=-1)

    if not gradient:
        return summed(_one_by_one(model, hidden.reshape(-1, width), targets))
    if _head_is_trained(model):
        return summed(_recomputed(model, hidden.reshape(-1, width), targets))

    @custom_function
    def scores(hidden):
        logps, slopes = _with_slopes(model, hidden.reshape(-1, width), targets)
        return summed(logps), slopes.reshape(hidden.shape)

    @scores.vjp
    def scores_vjp(primals, cotangents, outputs):
        weights = mx.where(mask, cotangents[0][:, None], 0.0)
        return (weights[..., None] * outputs[1]).astype(primals.dtype)

    return scores(hidden)[0]


def _chunks(model: nn.Module, hidden: mx.array) -> list[slice]:
    vocabulary = _logits(model, hidden[:1]).shape[-1]
    most = _LOGITS[_planned[-1] if _planned else mx.default_device().type] // vocabulary
    size = max(1, min(most, hidden.shape[0] // _CHUNKS) // _TOKENS) * _TOKENS
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
    """Whether anything outside of the blocks is trained."""
    blocks = {id(layer) for layer in model.layers}

    def trained(module: nn.Module) -> bool:
        own = (
            isinstance(v, mx.array) and module.trainable_parameter_filter(module, k, v)
            for k, v in module.items()
        )
        children = (c for _, c in tree_flatten(module.children(), is_leaf=lambda c: isinstance(c, nn.Module)))
        return any(own) or any(
            trained(c) for c in children if isinstance(c, nn.Module) and id(c) not in blocks
        )

    return trained(model)
