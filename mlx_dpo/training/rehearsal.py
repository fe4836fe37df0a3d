"""Keep a policy close to its starting model on texts that this model wrote itself.

A small model that learns curated answers of one kind forgets other things. So every update also uses some
texts that the model sampled before the first update, and lowers the policy's divergence from the starting
model on them: self-distillation (Li & Hoiem 2016, arXiv:1606.09282) on self-synthesised rehearsal (Huang et
al. 2024, arXiv:2403.01244).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_map

from ..forward.body_and_head import head, hidden_states
from ..logps import log_sum
from ..models.unprompted_texts import OwnText

KEPT = 64
"""Number of most likely tokens per position that are kept; all others count as one event."""
_TOGETHER = 16
"""Number of positions sorted at a time: all at once would take as much memory as a training step."""
_LEAST = 1e-6
"""A smaller probability of the other tokens is only rounding."""
_SHARE = 0.25
"""Texts per update, as a share of its pairs."""


class Rehearsed(NamedTuple):
    """A text with the model's most likely tokens: `ids` int32 and `logps` float32 nats, (n - start, KEPT)."""

    tokens: np.ndarray
    start: int
    ids: np.ndarray
    logps: np.ndarray


def rehearsed(model: nn.Module, text: OwnText) -> Rehearsed:
    """The text with the present model's most likely tokens at every position from `start` on."""
    model.eval()
    logits = _logits(model, text.tokens, text.start)
    found = [_likeliest(logits[first : first + _TOGETHER]) for first in range(0, len(logits), _TOGETHER)]
    ids, logps = map(np.concatenate, zip(*found, strict=True))
    return Rehearsed(text.tokens, text.start, ids, logps)


def _likeliest(logits: mx.array) -> tuple[np.ndarray, np.ndarray]:
    """Ids and log-probabilities of the most likely tokens at some positions."""
    logits = logits.astype(mx.float32)
    logps = np.array(logits - log_sum(logits)[:, None])
    count = min(KEPT, logps.shape[1] - 1)
    ids = np.argpartition(-logps, count, axis=1)[:, :count].astype(np.int32)
    return ids, np.take_along_axis(logps, ids, axis=1)


def divergence(logits: mx.array, ids: mx.array, logps: mx.array) -> mx.array:
    """Kullback-Leibler divergence of the kept probabilities from the policy, nats, at every position.

    Tokens that were not kept count as one event, so the result is a lower bound of the full divergence.

    Args:
        logits: (m, V), any float dtype, of the policy.
        ids, logps: (m, k), of the k most likely tokens, as in Rehearsed.

    Returns:
        float32 (m,), at least 0, and 0 where the policy still has the kept probabilities.
    """
    logits = logits.astype(mx.float32)
    own = mx.take_along_axis(logits, ids, axis=-1) - log_sum(logits)[:, None]
    kept = mx.exp(logps)
    rest, own_rest = (mx.maximum(1 - p.sum(axis=-1), _LEAST) for p in (kept, mx.exp(own)))
    return (kept * (logps - own)).sum(axis=-1) + rest * mx.log(rest / own_rest)


def divergence_gradient(policy: nn.Module, text: Rehearsed) -> tuple[Any, mx.array]:
    """Gradient of a text's mean divergence in the trainable parameters, and the mean, ()."""

    def mean(model):
        logits = _logits(model, text.tokens, text.start)
        return divergence(logits, mx.array(text.ids), mx.array(text.logps)).mean()

    parameters = policy.trainable_parameters()
    try:
        value, gradient = nn.value_and_grad(policy, mean)(policy)
    finally:
        policy.update(parameters)  # nn.value_and_grad leaves traced copies in the model
    return gradient, value


class Rehearsal(NamedTuple):
    """Texts, and the weight of their mean divergence, which is added to the mean loss of the pairs."""

    texts: Sequence[Rehearsed]
    weight: float

    def added(
        self,
        policy: nn.Module,
        gradient: list[Any],
        step: int,
        pairs: int,
        check_interrupt: Callable[[], None] = lambda: None,
    ) -> tuple[Any, list[float]]:
        """The gradient of an update with the gradient of its texts added, and the texts' divergences.

        Every update uses the texts after those of the update before, so a resumed run uses the same texts.

        Args:
            gradient: the pairs' gradient in a list, which is emptied, to avoid a second copy in memory.
            step: number of updates before this one.
            pairs: number of pairs of a full window.
        """
        total, count, found = gradient.pop(), max(1, round(_SHARE * pairs)), []
        for number in range(step * count, (step + 1) * count):
            check_interrupt()
            more, value = divergence_gradient(policy, self.texts[number % len(self.texts)])
            total = tree_map(lambda a, b: a + (self.weight / count) * b, total, more)
            del more
            mx.eval(total, value)
            found.append(float(value.item()))
        return total, found


def _logits(model: nn.Module, tokens: np.ndarray, start: int) -> mx.array:
    """The model's logits for the tokens from `start` on: (n - start, V)."""
    inputs = mx.array(tokens[None, :-1])
    try:
        return head(model, hidden_states(model, inputs)[0, start - 1 :])
    except TypeError:  # the model is not in two parts
        return model(inputs)[0, start - 1 :]
