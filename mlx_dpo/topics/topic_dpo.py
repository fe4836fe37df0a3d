"""DPO on topic-word logits: words that fit a topic should rank above words that do not.

The loss is that of a pair, −log σ(alpha · margin). A margin says by how much the logit of the winner has
gained on that of the loser since the snapshot.
"""

from collections.abc import Mapping
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from .win_lose import WinLose


class WordPairs(NamedTuple):
    """Preferences of S topics, padded to the longest lists.

    `topics` int32 (S,); `winners` int32 (S, W) and `losers` int32 (S, L), word indices; `weights` float32
    (S, W, L): each real pair's share of the mean over topics of the mean over pairs, 0 for padding.
    """

    topics: mx.array
    winners: mx.array
    losers: mx.array
    weights: mx.array


def word_pairs(preferences: Mapping[int, WinLose]) -> WordPairs | None:
    """All pairs of a winner and a loser of each topic; None if no topic has both."""
    chosen = {topic: own for topic, own in sorted(preferences.items()) if own.win and own.lose}
    if not chosen:
        return None
    winners, won = _padded([own.win for own in chosen.values()])
    losers, lost = _padded([own.lose for own in chosen.values()])
    real = won[:, :, None] * lost[:, None, :]
    weights = real / real.sum(axis=(1, 2), keepdims=True) / len(chosen)
    return WordPairs(mx.array(list(chosen), mx.int32), mx.array(winners), mx.array(losers), mx.array(weights))


def _padded(lists: list[tuple[int, ...]]) -> tuple[np.ndarray, np.ndarray]:
    """The lists as rows filled up with 0, int32, and 1 where a number is real, float32."""
    longest = max(map(len, lists))
    numbers = np.array([[*own, *[0] * (longest - len(own))] for own in lists], np.int32)
    real = np.array([[1] * len(own) + [0] * (longest - len(own)) for own in lists], np.float32)
    return numbers, real


def topic_dpo_loss(logits: mx.array, reference: mx.array, pairs: WordPairs, alpha: float) -> mx.array:
    """Mean over topics of the mean over their pairs of −log σ(alpha · margin), ().

    Args:
        logits: topic-word logits, (K, V).
        reference: those of the snapshot, (K, V).
        alpha: above 0; larger stays closer to the snapshot.
    """
    margins = _margins(logits - reference, pairs)
    return -(pairs.weights * nn.log_sigmoid(alpha * margins)).sum()


def ranked_share(logits: mx.array, pairs: WordPairs) -> float:
    """Share of the pairs whose winner has the larger logit, mean over topics, in [0, 1]."""
    return (pairs.weights * (_margins(logits, pairs) > 0)).sum().item()


def _margins(values: mx.array, pairs: WordPairs) -> mx.array:
    """The winner's value minus the loser's, (S, W, L).

    Args:
        values: of each topic's words, (K, V).
    """
    own = values[pairs.topics]
    won = mx.take_along_axis(own, pairs.winners, axis=1)
    lost = mx.take_along_axis(own, pairs.losers, axis=1)
    return won[:, :, None] - lost[:, None, :]


def anchor_loss(logits: mx.array, reference: mx.array, topics: mx.array) -> mx.array:
    """Mean squared change of the logits of these topics since the snapshot, ().

    Args:
        topics: int32 (N,), at least one.
    """
    return mx.square((logits - reference)[topics]).mean()
