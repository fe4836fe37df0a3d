"""Documents in batches."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from mlx_dpo.topics.batches import batch_count, dense, epoch_batches, step_keys


@pytest.mark.parametrize(
    ("documents", "size", "sizes"),
    [(10, 4, [4, 4, 2]), (9, 4, [4, 5]), (8, 4, [4, 4]), (3, 4, [3]), (2, 4, [2]), (5, 4, [5])],
)
def test_every_document_comes_once_an_epoch_and_none_alone(documents, size, sizes):
    batches = epoch_batches(documents, size, seed=1, epoch=2)
    assert [len(rows) for rows in batches] == sizes
    assert sorted(np.concatenate(batches)) == list(range(documents))
    assert batch_count(documents, size) == len(sizes)


def test_the_order_is_that_of_seed_and_epoch():
    order = lambda *of: np.concatenate(epoch_batches(50, 10, *of)).tolist()  # noqa: E731
    assert order(1, 2) == order(1, 2)
    assert len({tuple(order(*of)) for of in ((1, 2), (1, 3), (2, 2))}) == 3


def test_rows_of_the_bags_come_as_float32_counts():
    bags = csr_matrix(np.array([[0, 2, 1], [1, 0, 0]], np.int32))
    assert dense(bags, np.array([1, 0])).tolist() == [[1, 0, 0], [0, 2, 1]]


def test_every_step_has_random_keys_of_its_own():
    keys = [tuple(key.tolist()) for of in ((0, 0), (0, 1), (1, 0)) for key in step_keys(*of)]
    assert len(set(keys)) == 6
    assert [key.tolist() for key in step_keys(2**64 - 1, 5)] == [
        key.tolist() for key in step_keys(2**64 - 1, 5)
    ]
