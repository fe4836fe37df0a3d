"""Comparison of rows: ids, pairs and prompts that occur twice, found by hashes."""

import hashlib

import numpy as np

from .defects import ERROR, KINDS, WARNING, Kind

DUPLICATE_PAIR, CONTRADICTS, LEAK = "duplicate-pair", "contradicts", "leak"
KINDS[DUPLICATE_PAIR] = Kind(
    WARNING, "the same pair occurs twice, so it counts double", "keep one of the two rows"
)
KINDS[CONTRADICTS] = Kind(
    WARNING, "two rows prefer opposite answers to the same prompt", "keep one of the two rows"
)
KINDS[LEAK] = Kind(ERROR, "held-out numbers would be too good", "remove the row from one of the two files")


def text_hash(*texts: str, size: int = 8) -> bytes:
    """Bytes that differ if the texts differ; eight bytes collide once in 10^7 files of 10^6 rows."""
    return hashlib.blake2b("\0".join(texts).encode(), digest_size=size).digest()


def first_with(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each value, the place of the first equal value in `others`, int64; -1 if there is none.

    values [7 8 9], others [9 7 7]  ->  [1 -1 0]
    """
    if not len(others):
        return np.full(len(values), -1)
    order = np.argsort(others, kind="stable")
    place = np.searchsorted(others, values, sorter=order)
    first = order[np.minimum(place, len(order) - 1)]
    return np.where(others[first] == values, first, -1)


def repeated(values: np.ndarray, others: np.ndarray) -> list[tuple[int, int]]:
    """(place, earlier place) of the values that occur earlier in `others`, an array of the same length."""
    first = first_with(values, others)
    return [(row, int(first[row])) for row in np.flatnonzero((first >= 0) & (first < np.arange(len(first))))]
