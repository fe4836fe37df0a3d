"""Prompts that ask nearly the same: they belong on the same side of a split."""

import numpy as np

_BLOCK = 1024
"""Rows whose similarities to all rows before them are in memory at the same time."""


def clusters(vectors: np.ndarray, least: float) -> np.ndarray:
    """The cluster of each row: the number of the cluster's first row, int64 (n,).

    Two rows with a cosine of at least `least` share a cluster, and so do rows that a chain of such rows
    connects.

    Args:
        vectors: unit vectors, float32 (n, size).
    """
    cluster = np.arange(len(vectors))
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK]
        close = block @ vectors[: start + len(block)].T >= least
        for row, near in enumerate(close, start):
            if len(joined := np.unique(cluster[:row][near[:row]])):
                cluster[row] = joined[0]
                for other in joined[1:]:
                    cluster[cluster == other] = joined[0]
    return cluster
