"""C_V and NPMI against sums worked by hand."""

import math

import numpy as np
import pytest

from mlx_dpo.topics.coherence import c_v, npmi

WORDS = ["a", "b", "c", "d"]
TOGETHER = ["a b"] * 2 + ["c d"] * 2
INDEPENDENT = ["a b", "a c", "b d", "c d"]
APART = ["a c"] * 2 + ["b d"] * 2
NEVER = (math.log(1e-12 / 0.25)) / -math.log(1e-12)
"""NPMI of two words that are each in half of the texts, and never in the same one: -0.95."""


def cosine(x, y):
    return float(np.dot(x, y) / np.linalg.norm(x) / np.linalg.norm(y))


@pytest.mark.parametrize(
    ("texts", "pair"),
    [
        (TOGETHER, 1.0),  # p = 1/2 each and together: ln(2) / ln(2)
        (INDEPENDENT, 0.0),  # p = 1/2 each, 1/4 together: ln(1)
        (APART, NEVER),
    ],
)
def test_two_words_by_hand(texts, pair):
    vectors = np.array([[1.0, pair], [pair, 1.0]])
    expected = np.mean([cosine(vector, vectors.sum(axis=0)) for vector in vectors])
    assert npmi(texts, WORDS, np.array([[0, 1]])) == pytest.approx([pair], abs=1e-9)
    assert c_v(texts, WORDS, np.array([[0, 1]])) == pytest.approx([expected], abs=1e-9)


def test_independent_words_have_the_cosine_of_45_degrees():
    assert c_v(INDEPENDENT, WORDS, np.array([[0, 1]])) == pytest.approx([math.sqrt(0.5)], abs=1e-9)


def test_npmi_counts_windows_of_ten_words_and_c_v_windows_of_110():
    far = " ".join(["a", *["c"] * 9, "b"])  # a and b are 10 words apart: 2 windows of 10, 1 of 110
    texts = [far, "d"]
    pair = math.log((1e-12) / (1 / 3 * 1 / 3)) / -math.log(1e-12)
    assert npmi(texts, WORDS, np.array([[0, 1]])) == pytest.approx([pair], abs=1e-9)
    assert c_v(texts, WORDS, np.array([[0, 1]])) == pytest.approx([1.0], abs=1e-9)


def test_each_topic_has_its_own_score_whatever_stands_beside_it():
    top = np.array([[0, 1], [0, 2], [1, 3]])
    together = c_v(TOGETHER + INDEPENDENT, WORDS, top)
    alone = [c_v(TOGETHER + INDEPENDENT, WORDS, top[[k]])[0] for k in range(3)]
    assert together == pytest.approx(alone, abs=1e-12)
    assert together[0] > together[1]


def test_a_word_in_no_text_counts_as_a_vector_of_zeros():
    words = [*WORDS, "absent"]
    assert c_v(TOGETHER, words, np.array([[0, 1, 4]])) == pytest.approx([2 / 3], abs=1e-9)
    assert npmi(TOGETHER, words, np.array([[0, 1, 4], [0, 1, 0]]))[0] == pytest.approx(1 / 3, abs=1e-9)
    assert c_v(TOGETHER, words, np.array([[0, 4]])) == [0]
