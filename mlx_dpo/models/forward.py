"""PairBatch to log-probabilities: two ways, and the memory-saving checkpointing of layers."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from ..data.batches import PairBatch
from ..logps import completion_logps


class Forward(NamedTuple):
    """A named way to score: `score(model, batch)` gives float32 (2B,) nats, chosen rows first."""

    name: str
    score: Callable[[nn.Module, PairBatch], mx.array]


def plain_score(model: nn.Module, batch: PairBatch) -> mx.array:
    """The model's own call on whole sequences; logits of every position exist for a moment."""
    logits = model(batch.inputs)
    logits = mx.take_along_axis(logits, batch.positions[..., None], axis=1)
    return completion_logps(logits, batch.targets, batch.mask)


def completion_score(model: nn.Module, batch: PairBatch) -> mx.array:
    """Hidden states of the whole sequence, logits of completion tokens only."""
    hidden = model.model(batch.inputs)
    hidden = mx.take_along_axis(hidden, batch.positions[..., None], axis=1)
    width = hidden.shape[1]
    chunk = max(_CHUNK, _LOGITS // (hidden.shape[0] * _vocabulary(model)))
    if width <= chunk:
        return completion_logps(head(model, hidden), batch.targets, batch.mask)
    # Long answers times a large vocabulary: the logits of one chunk exist at a time, in the backward too.
    scores = mx.zeros(hidden.shape[0])
    for start in range(0, width, chunk):
        part = slice(start, start + chunk)
        scores = scores + _score_chunk(model, batch.targets[:, part], batch.mask[:, part])(hidden[:, part])
    return scores


def _score_chunk(model: nn.Module, targets: mx.array, mask: mx.array) -> Callable[[mx.array], mx.array]:
    # The head is frozen and targets are whole numbers: only the hidden states are differentiated.
    return mx.checkpoint(lambda hidden: completion_logps(head(model, hidden), targets, mask))


def _vocabulary(model: nn.Module) -> int:
    return model.args.vocab_size


_CHUNK = 64
"""Fewest answer tokens whose logits are formed at a time."""
_LOGITS = 2**25
"""Logits formed at a time where that is more than 64 tokens' worth: 128 MB in float32."""

PLAIN = Forward("plain", plain_score)
COMPLETION = Forward("completion", completion_score)


def head(model: nn.Module, hidden: mx.array) -> mx.array:
    """Logits (N, C, V) of hidden states (N, C, H), by the model's own code.

    The inner model stands in for itself and hands back `hidden`, so that whatever the outer call does
    after it (tied weights, logit scaling, soft caps) is done here too.
    """
    inner = model.model
    kind = type(inner)
    inner.__class__ = _standing_in(kind)
    object.__setattr__(inner, "_handed_back", hidden)
    try:
        return model(mx.zeros(hidden.shape[:2], mx.int32))
    finally:
        object.__delattr__(inner, "_handed_back")
        inner.__class__ = kind


@cache
def _standing_in(kind: type) -> type:
    return type(kind.__name__, (kind,), {"__call__": lambda self, *args, **kwargs: self._handed_back})


def checkpoint_layers(model: nn.Module) -> None:
    """Let every block keep only its input for the backward pass and compute the rest again.

    The class of these blocks changes, not the class of all blocks in the process.
    """
    for layer in model.layers:
        layer.__class__ = _checkpointed(type(layer))


@cache
def _checkpointed(kind: type) -> type:
    def call(self, *args, **kwargs):
        def run(parameters, *args, **kwargs):
            self.update(parameters)
            return kind.__call__(self, *args, **kwargs)

        return mx.checkpoint(run)(self.trainable_parameters(), *args, **kwargs)

    return type(kind.__name__, (kind,), {"__call__": call})
