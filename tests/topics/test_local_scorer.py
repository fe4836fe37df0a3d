"""Scores and preferences by vectors, on words that point in two directions."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from mlx_dpo.topics.corpus import Corpus
from mlx_dpo.topics.local_scorer import LocalScorer
from mlx_dpo.topics.meanings import Meanings, meanings, nearest_words, unit
from mlx_dpo.topics.topic_words import TopicWords

VOCABULARY = [f"{theme}{n}" for theme in "ab" for n in range(20)]
A, B = range(20), range(20, 40)
VECTORS = np.array([[1.0, 0.0]] * 20 + [[0.0, 1.0]] * 20, np.float32)


def of(texts):
    return unit(np.stack([sum(VECTORS[VOCABULARY.index(w)] for w in text.split()) for text in texts]))


def scorer(*top):
    """Of topics with these top words."""
    return LocalScorer(TopicWords(np.array(top), VOCABULARY), Meanings(VECTORS, of))


@pytest.mark.parametrize(("fitting", "score"), [(15, 3), (12, 3), (11, 2), (8, 2)])
def test_the_score_is_the_share_of_the_top_15_that_fit_the_theme(fitting, score):
    top = [*A[:fitting], *B[: 15 - fitting], *A[fitting:20], *B[15 - fitting : 20 - fitting]]
    assert scorer(top[:25]).scores() == {0: score}


def test_a_topic_of_many_themes_has_the_lowest_score():
    words = [f"w{n}" for n in range(40)]
    vectors = np.eye(40, dtype=np.float32)
    found = LocalScorer(
        TopicWords(np.arange(25)[None], words),
        Meanings(
            vectors, lambda texts: unit(np.stack([vectors[: len(t.split())].sum(axis=0) for t in texts]))
        ),
    )
    assert found.scores() == {0: 1}


def test_top_words_that_do_not_fit_lose_and_the_farthest_others_until_the_lists_are_about_as_long():
    top = [*A[:10], *B[:15]]
    found = scorer(top).preferences({0: "a0 a1 a2 a3 a4"}, {0: [A[19]]})[0]
    assert found.win == (*A[:10], A[19])
    assert found.lose[:5] == tuple(B[:5])
    assert len(found.lose) == len(found.win) - 2
    assert set(found.lose) <= set(B)


def test_a_topic_without_a_description_has_no_preferences():
    assert scorer([*A[:10], *B[:15]]).preferences({0: None}, {0: []}) == {}


def test_a_description_is_five_words_of_the_main_theme():
    found = scorer([*A[:10], *B[:15]]).descriptions({0: 2})
    assert found == {0: "a0 a1 a2 a3 a4"}


def test_an_incoherent_topic_gets_a_theme_that_no_topic_has():
    top = [*A[:10], *B[:15]]
    assert scorer(top, top).descriptions({0: 3, 1: 1}) == {0: "a0 a1 a2 a3 a4", 1: "b0 b1 b2 b3 b4"}


def test_extra_words_are_the_nearest_ones_that_are_not_there_yet():
    meanings = Meanings(VECTORS, of)
    assert nearest_words(meanings, "b3", [*B[:4], 38], 3) == [24, 25, 26]
    assert nearest_words(meanings, None, [], 3) == []


def test_with_an_embedder_the_nearest_words_are_those_of_one_meaning(minilm):
    words = ["banana", "bus", "cherry", "lorry", "pear", "train"]
    found = meanings(Corpus(csr_matrix(np.ones((2, 6), np.int32)), words), minilm, 0)
    assert set(nearest_words(found, "kinds of fruit", [], 3)) == {0, 2, 4}
    assert set(nearest_words(found, "public transport and freight", [1], 2)) == {3, 5}
