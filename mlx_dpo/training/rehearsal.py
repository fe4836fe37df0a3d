"""Holding a policy to the model that it starts from, on text that this model wrote itself.

Curated answers of one kind teach a small model that kind and cost it the rest. So every update also takes
some texts that the model drew before the first one, and lowers the divergence of the policy from what it was
there: knowledge distillation from oneself (Li & Hoiem 2016, arXiv:1606.09282) on rehearsed samples of one's
own (Huang et al. 2024, arXiv:2403.01244).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_map

from ..forward.body_and_head import head, hidden_states
from ..logps import log_sum
from ..models.free_text import OwnText

KEPT = 64
"""Likeliest tokens of a place whose probabilities are kept; all others count as one event."""
_TOGETHER = 16
"""Places whose tokens are sorted at a time: all of them would take as much memory as a step."""
_LEAST = 1e-6
"""Probabilities of that event below this are rounding."""
_SHARE = 0.25
"""Texts an update, as a share of its pairs."""


class Rehearsed(NamedTuple):
    """A text and what the model gave there: `ids` int32 and `logps` float32 nats, (n - start, KEPT)."""

    tokens: np.ndarray
    start: int
    ids: np.ndarray
    logps: np.ndarray


def rehearsed(model: nn.Module, text: OwnText) -> Rehearsed:
    """The text with the likeliest tokens of the model as it is now, at every place from `start` on."""
    model.eval()
    logits = _logits(model, text.tokens, text.start)
    found = [_likeliest(logits[first : first + _TOGETHER]) for first in range(0, len(logits), _TOGETHER)]
    ids, logps = map(np.concatenate, zip(*found, strict=True))
    return Rehearsed(text.tokens, text.start, ids, logps)


def _likeliest(logits: mx.array) -> tuple[np.ndarray, np.ndarray]:
    """Ids and log-probabilities of the likeliest tokens of some places."""
    logits = logits.astype(mx.float32)
    logps = np.array(logits - log_sum(logits)[:, None])
    count = min(KEPT, logps.shape[1] - 1)
    ids = np.argpartition(-logps, count, axis=1)[:, :count].astype(np.int32)
    return ids, np.take_along_axis(logps, ids, axis=1)


def divergence(logits: mx.array, ids: mx.array, logps: mx.array) -> mx.array:
    """Kullback-Leibler divergence of what was kept from the policy, nats, at every place.

    Tokens that were not kept are taken together, which makes it a lower bound of that over all tokens.

    Args:
        logits: (m, V), any float dtype, of the policy.
        ids, logps: (m, k), of the k likeliest tokens then, as in Rehearsed.

    Returns:
        float32 (m,), at least 0, and 0 where the policy gives what was kept.
    """
    logits = logits.astype(mx.float32)
    own = mx.take_along_axis(logits, ids, axis=-1) - log_sum(logits)[:, None]
    kept = mx.exp(logps)
    rest, own_rest = (mx.maximum(1 - p.sum(axis=-1), _LEAST) for p in (kept, mx.exp(own)))
    return (kept * (logps - own)).sum(axis=-1) + rest * mx.log(rest / own_rest)


def divergence_gradient(policy: nn.Module, text: Rehearsed) -> tuple[Any, mx.array]:
    """Gradient of the mean divergence over a text's places in the trainable parameters, and that mean, ()."""

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
    """Texts, and the weight of the mean divergence on them beside the mean loss of the pairs."""

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
        """The gradient of an update with that of its texts, and their divergences.

        Every update takes the texts after those of the one before, so that a resumed run takes the same.

        Args:
            gradient: that of the pairs, in a list that gives it up: a second copy would take as much memory.
            step: updates before this one.
            pairs: of a full window.
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
    """What the model's own call gives for the tokens from `start` on: (n - start, V)."""
    inputs = mx.array(tokens[None, :-1])
    try:
        return head(model, hidden_states(model, inputs)[0, start - 1 :])
    except TypeError:  # it is not in two parts
        return model(inputs)[0, start - 1 :]
