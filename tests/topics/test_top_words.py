"""Top words, as indices and as files."""

import json

import numpy as np
import pytest

from mlx_dpo.topics.top_words import FILES, log_beta, top_words, write_top_words

LOGITS = np.array([[0.0, 2.0, 1.0, 2.0], [3.0, 1.0, 1.0, 1.0]])
VOCABULARY = ["apple", "bread", "cloud", "door"]


def test_the_largest_come_first_and_equal_ones_by_index():
    assert top_words(LOGITS, 3).tolist() == [[1, 3, 2], [0, 1, 2]]


def test_words_that_a_topic_shares_with_others_come_after_its_own():
    logits = np.array([[5.0, 3.0], [5.0, -100.0]])
    assert top_words(log_beta(logits), 2).tolist() == [[1, 0], [0, 1]]
    assert np.exp(log_beta(logits)).sum(axis=0) == pytest.approx([1, 1])


def test_words_are_ordered_where_beta_rounds_to_one():
    logits = np.array([[100.0, 200.0], [0.0, 0.0]], np.float32)
    assert top_words(log_beta(logits), 2)[1].tolist() == [0, 1]
    assert top_words(log_beta(np.array([[20.0, 25.0], [0.0, 0.0]])), 2)[0].tolist() == [1, 0]


def test_the_files_have_a_line_a_topic_in_the_order_of_the_topics(tmp_path):
    write_top_words(tmp_path, LOGITS, VOCABULARY, {1: {"main meaning": "fruit", "llm_score": 2}})
    assert {path.name for path in tmp_path.iterdir()} == set(FILES)
    assert (tmp_path / "top_words_15.txt").read_text() == "bread door cloud apple\napple cloud bread door\n"
    rows = [json.loads(line) for line in (tmp_path / "top_words_10.jsonl").read_text().splitlines()]
    assert rows[1] == {
        "k": 1,
        "main meaning": "fruit",
        "llm_score": 2,
        "top_words": [{"apple": 0}, {"cloud": 2}, {"bread": 1}, {"door": 3}],
    }
    assert [rows[0][name] for name in ("k", "main meaning", "llm_score")] == [0, None, None]
