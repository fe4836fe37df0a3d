"""Prompts that ask nearly the same: they belong on the same side of a split."""

from collections.abc import Iterator, Sequence

import numpy as np

from ..records import Message

_SIMILARITIES = 2**24
"""Similarities that are in memory at the same time: 64 MB of float32."""


def asked(prompt: Sequence[Message]) -> str:
    """The text of a prompt that is compared: all turns but the system's, which many prompts share."""
    return "\n".join(turn["content"] for turn in prompt if turn["role"] != "system")


def clusters(vectors: np.ndarray, least: float) -> np.ndarray:
    """The cluster of each row: the number of the cluster's first row, int64 (n,).

    Two rows with a cosine of at least `least` share a cluster, and so do rows that a chain of such rows
    connects.

    Args:
        vectors: unit vectors, float32 (n, size).
    """
    cluster = np.arange(len(vectors))
    for rows in _blocks(len(vectors), len(vectors)):
        start, block = rows.start, vectors[rows]
        close = block @ vectors[: start + len(block)].T >= least
        for row, near in enumerate(close, start):
            if len(joined := np.unique(cluster[:row][near[:row]])):
                cluster[row] = joined[0]
                for other in joined[1:]:
                    cluster[cluster == other] = joined[0]
    return cluster


def nearest(vectors: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row the most similar row of `others`: its number, int64 (n,), and the cosine, float32 (n,).

    Args:
        vectors: unit vectors, float32 (n, size).
        others: unit vectors, float32 (m, size), m > 0.
    """
    numbers, cosines = np.zeros(len(vectors), np.int64), np.zeros(len(vectors), np.float32)
    for rows in _blocks(len(vectors), len(others)):
        close = vectors[rows] @ others.T
        numbers[rows], cosines[rows] = close.argmax(axis=1), close.max(axis=1)
    return numbers, cosines


def _blocks(count: int, others: int) -> Iterator[slice]:
    """Blocks of `count` rows, so many that their similarities to `others` rows fit in memory."""
    size = max(1, _SIMILARITIES // max(1, others))
    return (slice(start, start + size) for start in range(0, count, size))
