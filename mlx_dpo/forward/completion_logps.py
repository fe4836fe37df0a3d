"""Log-probabilities of completions from hidden states, with logits for a few entries and tokens at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

import mlx.core as mx
import mlx.nn as nn

from ..logps import log_sum, log_sum_and_softmax, sum_scored
from .body_and_head import head
from .custom_gradients import checkpoint, custom_function
from .partial_vocabulary import Vocabulary, outside_blocks

_PIECE = {mx.cpu: (256, 2048), mx.gpu: (1024, 4096)}
"""Tokens and vocabulary entries whose logits are formed at a time: 2 MB in float32, 16 MB on a GPU. About ten
such pieces are in memory; on a CPU, which frees arrays late, up to seventy if the vocabulary has that many.
The number of entries is the same for every batch, so that a pair always has exactly the same score."""
_planned: list[mx.DeviceType] = []


@contextmanager
def chunks_as_on(device: mx.DeviceType) -> Iterator[None]:
    """In this context as many logits are formed at a time as on `device`, to plan for another machine."""
    _planned.append(device)
    try:
        yield
    finally:
        _planned.pop()


def planned_device() -> mx.DeviceType:
    """The device for which memory is planned; without a plan, the device of this process."""
    return _planned[-1] if _planned else mx.default_device().type


def score_tokens(
    model: nn.Module, hidden: mx.array, targets: mx.array, mask: mx.array, *, gradient: bool
) -> mx.array:
    """Sum of log p(target) over each row's scored tokens: float32 (N,), nats.

    Peak memory does not grow with N · T · V.

    Args:
        hidden: (N, T, H), the state before each target.
        targets, mask: (N, T): token ids, and whether each is scored (bool) or how much it counts.
        gradient: whether the result will be differentiated. With a frozen head, d score / d hidden is then
            computed with the scores, chunk by chunk, so that the backward pass forms no logits again.
    """
    width, targets = hidden.shape[-1], targets.flatten()

    def summed(logps):
        return sum_scored(logps.reshape(mask.shape), mask)

    if not gradient:
        return summed(_scored(model, hidden.reshape(-1, width), targets, gradient=False)[0])
    if _head_is_trained(model):
        return summed(_recomputed(model, hidden.reshape(-1, width), targets))

    @custom_function
    def scores(hidden):
        logps, slopes = _scored(model, hidden.reshape(-1, width), targets, gradient=True)
        return summed(logps), slopes.reshape(hidden.shape)

    @scores.vjp
    def scores_vjp(primals, cotangents, outputs):
        weights = mask * cotangents[0][:, None]
        return (weights[..., None] * outputs[1]).astype(primals.dtype)

    return scores(hidden)[0]


def score_and_agreement(
    model: nn.Module, hidden: mx.array, targets: mx.array, mask: mx.array, *, gradient: bool = False
) -> mx.array:
    """`score_tokens` without gradient, and `mean_agreement`: float32 (N, 2)."""
    logps, squares = (
        part.reshape(mask.shape)
        for part in _with_squares(model, hidden.reshape(-1, hidden.shape[-1]), targets.flatten())
    )
    return mx.stack([sum_scored(logps, mask), mean_agreement(logps, squares, mask)], axis=-1)


def mean_agreement(logps: mx.array, squares: mx.array, mask: mx.array) -> mx.array:
    """How likely each completion is, compared with the model's own samples: (N,), nats per token.

    Mean over tokens of log p(y) - log of the sum of p squared (Zhou et al. 2024, arXiv:2406.11827, eq. 2).

    Args:
        logps, squares: (N, T): log p of each target, and log of the sum of squared probabilities at its
            place.
        mask: (N, T): which targets count.
    """
    counted = mask != 0
    return mx.where(counted, logps - squares, 0.0).sum(axis=-1) / counted.sum(axis=-1)


def _with_squares(model: nn.Module, hidden: mx.array, targets: mx.array) -> tuple[mx.array, mx.array]:
    """log p of every target (T,), and log of the sum of all squared probabilities at its place (T,)."""
    vocabulary, (most, words) = Vocabulary(model, hidden), _piece()
    words, parts = vocabulary.stretch(words), []
    for first in range(0, len(hidden), most):
        rows, picked = hidden[first : first + most], mx.zeros((1,))
        total = double = mx.array(-mx.inf)
        for start in range(0, vocabulary.size, words):
            logits = vocabulary.logits(rows, slice(start, start + words)).astype(mx.float32)
            picked = picked + _at(logits, targets[first : first + most] - start)
            total = mx.logaddexp(total, log_sum(logits))
            double = mx.logaddexp(double, log_sum(2 * logits))
            mx.eval(picked, total, double)  # without a gradient nothing is kept: one piece at a time
        parts.append((picked - total, double - 2 * total))
    return tuple(map(mx.concatenate, zip(*parts, strict=True)))


def _piece() -> tuple[int, int]:
    return _PIECE[planned_device()]


def _scored(
    model: nn.Module, hidden: mx.array, targets: mx.array, *, gradient: bool
) -> tuple[mx.array, mx.array | None]:
    """log p of every target (T,), and its gradient in the hidden state (T, H)."""
    vocabulary, most = Vocabulary(model, hidden), _piece()[0]
    parts: list[tuple[mx.array, ...]] = []
    for start in range(0, len(hidden), most):
        rows = hidden[start : start + most]
        if parts:  # one part after another, so that the logits of only one part exist
            rows = mx.depends([rows], list(parts[-1]))[0]
        parts.append(_scored_part(vocabulary, rows, targets[start : start + most], gradient))
    logps, *slopes = map(mx.concatenate, zip(*parts, strict=True))
    return logps, slopes[0] if gradient else None


def _scored_part(
    vocabulary: Vocabulary, hidden: mx.array, targets: mx.array, gradient: bool
) -> tuple[mx.array, ...]:
    """`_scored` for a few tokens, a piece of the vocabulary at a time.

    The gradient of log p in the logits is one-hot minus softmax. The softmax is updated from piece to piece
    as in attention (Milakov and Gimelshein 2018, arXiv:1805.02867; Dao et al. 2022, arXiv:2205.14135):
    `total` is the log of the sum of exponentials so far, `expected` (T, H) its gradient.
    """
    picked = mx.zeros(targets.shape, mx.float32)
    words = vocabulary.stretch(_piece()[1])
    total = expected = None
    for start in range(0, vocabulary.size, words):
        some = slice(start, start + words)
        if total is not None:
            hidden = mx.depends([hidden], [expected if gradient else total])[0]
        logits = vocabulary.logits(hidden, some)
        picked = picked + _at(logits, targets - start)
        own_total, chances = log_sum_and_softmax(logits.astype(mx.float32))
        before, total = total, own_total if total is None else mx.logaddexp(total, own_total)
        if gradient:
            own = vocabulary.slope(hidden, some, chances.astype(logits.dtype)).astype(mx.float32)
            if before is not None:
                own = own * mx.exp(own_total - total)[:, None] + expected * mx.exp(before - total)[:, None]
            expected = own
    if not gradient:
        return (picked - total,)
    at_target = vocabulary.slope(hidden, targets, mx.eye(len(hidden), dtype=hidden.dtype))
    return picked - total, (at_target - expected).astype(hidden.dtype)


def _at(logits: mx.array, targets: mx.array) -> mx.array:
    """The logit of each target in float32 (T,), 0 if it is not among these logits."""
    count = logits.shape[-1]
    here = mx.clip(targets, 0, count - 1)
    picked = mx.take_along_axis(logits, here[:, None], axis=-1).squeeze(-1).astype(mx.float32)
    return mx.where(here == targets, picked, 0.0)


def _chunks(model: nn.Module, hidden: mx.array) -> list[slice]:
    size = max(1, prod(_piece()) // head(model, hidden[:1]).shape[-1])
    return [slice(start, start + size) for start in range(0, hidden.shape[0], size)]


def _recomputed(model: nn.Module, hidden: mx.array, targets: mx.array) -> mx.array:
    """For a trained head: logits are recomputed in the backward pass, also chunk by chunk."""
    parts = []
    for part in _chunks(model, hidden):

        def run(parameters, rows, part=part):
            model.update(parameters)
            return _logps(head(model, rows), targets[part])

        parts.append(checkpoint(run)(model.trainable_parameters(), hidden[part]))
    return mx.concatenate(parts)


def _logps(logits: mx.array, targets: mx.array) -> mx.array:
    """log p of the targets, float32 (T,)."""
    return _at(logits, targets) - log_sum(logits.astype(mx.float32))


def _head_is_trained(model: nn.Module) -> bool:
    """Whether any weight outside the blocks is trained."""
    return any(
        isinstance(v, mx.array) and module.trainable_parameter_filter(module, k, v)
        for module in outside_blocks(model)
        for k, v in module.items()
    )
