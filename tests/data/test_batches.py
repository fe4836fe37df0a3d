"""Padded arrays by hand, and an order in which every pair comes exactly once an epoch."""

import itertools

import numpy as np
import pytest

from mlx_dpo.data.batches import build_batch, epoch_windows, micro_batches
from mlx_dpo.data.tokenize import TokenizedPair


def pair(prompt, chosen, rejected, where="here"):
    return TokenizedPair(*(np.array(a, np.int32) for a in (prompt, chosen, rejected)), where)


def sized(prompt, chosen, rejected):
    """A pair with so many tokens, none of them 0."""
    return pair(range(1, prompt + 1), range(100, 100 + chosen), range(500, 500 + rejected))


def plain(batch):
    return [np.array(a).astype(int).tolist() for a in batch]


PAIRS = [sized(3 + i % 7, 1 + i % 11, 1 + (3 * i) % 13) for i in range(23)]


def test_the_batch_of_the_docstring():
    assert plain(build_batch([pair([1, 2], [3, 4], [5])], bucket=1)) == [
        [[1, 2, 3], [1, 2, 0]],
        [[1, 2], [1, 2]],
        [[3, 4], [5, 0]],
        [[1, 1], [1, 0]],
        [2, 1],
    ]


def test_a_batch_of_two_stacks_chosen_above_rejected():
    batch = build_batch([pair([1, 2], [3, 4], [5]), pair([6], [7], [8, 9, 10])], bucket=1)
    inputs, positions, targets, mask, lengths = plain(batch)
    assert inputs == [[1, 2, 3], [6, 0, 0], [1, 2, 0], [6, 8, 9]]
    assert targets == [[3, 4, 0], [7, 0, 0], [5, 0, 0], [8, 9, 10]]
    assert mask == [[1, 1, 0], [1, 0, 0], [1, 0, 0], [1, 1, 1]]
    assert positions == [[1, 2, 2], [0, 1, 2], [1, 2, 2], [0, 1, 2]]
    assert lengths == [2, 1, 1, 3]


def test_a_bucket_only_adds_padding():
    small = plain(build_batch([pair([1, 2], [3, 4], [5])], bucket=1))
    inputs, positions, targets, mask, lengths = plain(build_batch([pair([1, 2], [3, 4], [5])], bucket=4))
    assert inputs == [[1, 2, 3, 0], [1, 2, 0, 0]]
    assert targets == [[3, 4, 0, 0], [5, 0, 0, 0]]
    assert mask == [[1, 1, 0, 0], [1, 0, 0, 0]]
    assert [row[:2] for row in positions] == small[1]
    assert lengths == small[4]


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected", "length", "width"),
    [
        (20, 13, 1, 32, 32),  # 33 tokens: the last is only ever a target
        (20, 14, 1, 64, 32),
        (20, 1, 14, 64, 32),
        (1, 32, 5, 32, 32),
        (1, 33, 5, 64, 64),
        (96, 1, 1, 96, 32),
        (97, 1, 2, 128, 32),
    ],
)
def test_lengths_are_rounded_up_to_buckets_of_32(prompt, chosen, rejected, length, width):
    batch = build_batch([sized(prompt, chosen, rejected)])
    assert batch.inputs.shape == (2, length)
    assert {a.shape for a in (batch.positions, batch.targets, batch.mask)} == {(2, width)}


def test_every_scored_token_follows_the_token_at_its_position():
    """Read the batch back: the prompt, then from its last token on what stands before each target."""
    inputs, positions, targets, mask, _ = (np.array(a) for a in build_batch(PAIRS))
    branches = [(p.prompt, p.chosen) for p in PAIRS] + [(p.prompt, p.rejected) for p in PAIRS]
    assert positions.max() < inputs.shape[1]
    for row, (prompt, completion) in enumerate(branches):
        whole = np.concatenate([prompt, completion])
        np.testing.assert_array_equal(targets[row][mask[row]], completion)
        np.testing.assert_array_equal(inputs[row][positions[row][mask[row]]], whole[len(prompt) - 1 : -1])
        np.testing.assert_array_equal(inputs[row][: len(whole) - 1], whole[:-1])
        assert not inputs[row][len(whole) - 1 :].any()
        assert not targets[row][~mask[row]].any()


@pytest.mark.parametrize("window", [1, 4, 8, 23, 100])
@pytest.mark.parametrize("micro_batch", [1, 3, 8])
def test_every_pair_comes_exactly_once_an_epoch(window, micro_batch):
    windows = epoch_windows(PAIRS, window, micro_batch, seed=0, epoch=0)
    rows = list(itertools.chain(*itertools.chain(*windows)))
    assert sorted(rows) == list(range(len(PAIRS)))


def test_the_last_window_holds_what_is_left():
    windows = epoch_windows(PAIRS, 8, 3, seed=0, epoch=0)
    assert [[len(micro) for micro in window] for window in windows] == [[3, 3, 2], [3, 3, 2], [3, 3, 1]]


@pytest.mark.parametrize(("count", "windows"), [(1, [1]), (8, [8]), (9, [8, 1]), (16, [8, 8])])
def test_a_window_is_never_empty(count, windows):
    found = epoch_windows(PAIRS[:count], 8, 1, seed=0, epoch=0)
    assert [len(window) for window in found] == windows


@pytest.mark.parametrize("micro_batch", [2, 3, 8, 50])
def test_what_a_window_holds_and_its_order_do_not_depend_on_the_micro_batch(micro_batch):
    ones = epoch_windows(PAIRS, 8, 1, seed=5, epoch=1)
    others = epoch_windows(PAIRS, 8, micro_batch, seed=5, epoch=1)
    assert [list(itertools.chain(*w)) for w in others] == [list(itertools.chain(*w)) for w in ones]


def test_inside_a_window_pairs_go_from_short_to_long():
    for window in epoch_windows(PAIRS, 8, 3, seed=0, epoch=0):
        lengths = [PAIRS[i].length for i in itertools.chain(*window)]
        assert lengths == sorted(lengths)


def test_windows_are_shuffled_not_sorted_by_length():
    """Sorted, the first window of 8 would hold the shortest pairs; over seeds it holds each as often."""
    means = [
        np.mean([PAIRS[i].length for i in itertools.chain(*epoch_windows(PAIRS, 8, 1, seed, 0)[0])])
        for seed in range(200)
    ]
    lengths = [p.length for p in PAIRS]
    # The mean of 8 of 23 has deviation s / sqrt(8) * sqrt(15 / 22); of 200 such means a 14th of it.
    deviation = np.std(lengths) / np.sqrt(8) * np.sqrt(15 / 22) / np.sqrt(200)
    assert abs(np.mean(means) - np.mean(lengths)) < 4 * deviation


def test_every_seed_and_epoch_has_an_order_of_its_own_and_keeps_it():
    keys = list(itertools.product(range(6), range(6)))
    orders = {key: str(epoch_windows(PAIRS, 4, 1, *key)) for key in keys}
    assert len(set(orders.values())) == 36
    assert all(str(epoch_windows(PAIRS, 4, 1, *key)) == orders[key] for key in keys)


def test_micro_batches_hold_pairs_of_like_length_and_at_most_the_size():
    pairs = [sized(1, n, 1) for n in (9, 2, 7, 2, 5)]
    assert micro_batches(pairs, range(5), 2) == [[1, 3], [4, 2], [0]]
    assert micro_batches(pairs, [4, 0, 1], 2) == [[1, 4], [0]]
    assert micro_batches(pairs, [], 2) == []
