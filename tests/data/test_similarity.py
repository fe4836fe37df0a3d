"""How alike two texts are: the share of both that their longest common subsequence holds."""

import random

import pytest

from mlx_dpo.data.similarity import alike


def longest_common(a, b):
    """Length of the longest common subsequence, by the textbook's table."""
    row = [0] * (len(b) + 1)
    for x in a:
        before = row
        row = [0]
        for j, y in enumerate(b):
            row.append(before[j] + 1 if x == y else max(row[j], before[j + 1]))
    return row[-1]


@pytest.mark.parametrize(
    ("first", "second", "share"),
    [
        ("abcdefghij", "abcdefghiX", 2 * 9 / 20),
        ("ab", "ba", 2 * 1 / 4),  # a or b, not both: their order counts
        ("abcd", "ab", 2 * 2 / 6),
        ("Rub IT  with\n salt", "rub it with salt", 1.0),  # case and spacing aside
        ("", "a", 0.0),
    ],
)
def test_the_share_is_that_of_both_texts(first, second, share):
    """To the last digit: a text at the threshold itself is alike."""
    for one, other in ((first, second), (second, first)):
        assert alike(one, other, share)
        assert not alike(one, other, share + 1e-9)


def test_two_texts_without_a_character_are_alike():
    assert alike(" ", "\n", 1.0)


def test_every_threshold_decides_as_the_textbooks_table_does():
    draw = random.Random(0)
    for _ in range(200):
        a, b = ("".join(draw.choices("abc", k=draw.randint(1, 30))) for _ in range(2))
        share = 2 * longest_common(a, b) / (len(a) + len(b))
        for least in (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0):
            assert alike(a, b, least) == (share >= least), (a, b, least)
