"""Documents in batches: every document once an epoch, in an order that seed and epoch decide."""

from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


def batch_count(documents: int, size: int) -> int:
    """Batches of an epoch; a last document alone joins the batch before it, since one has no variance."""
    return max(1, -(-documents // size) - (documents % size == 1))


def epoch_batches(documents: int, size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Row numbers of each batch of an epoch (from 0), int64 (B,), at least 2 in each.

    Args:
        documents: at least 2.
        size: at least 2.
    """
    order = np.random.default_rng([seed, epoch]).permutation(documents)
    return np.split(order, range(size, size * batch_count(documents, size), size))


def dense(bags: "csr_matrix", rows: np.ndarray) -> mx.array:
    """These rows of the bags as float32 (B, V)."""
    return mx.array(bags[rows].astype(np.float32).toarray())


def step_keys(seed: int, step: int) -> tuple[mx.array, mx.array]:
    """Random keys of an update: for the noise, and for dropout."""
    (number,) = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)
    noise, dropout = mx.random.split(mx.random.key(int(number)))
    return noise, dropout
