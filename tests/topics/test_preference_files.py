"""Files of preferences that a user gives or has changed."""

import json

import pytest

from mlx_dpo.errors import DpoError
from mlx_dpo.topics.preference_files import (
    read_descriptions,
    read_extra_words,
    read_preferences,
    read_scores,
    without_both,
)
from mlx_dpo.topics.win_lose import WinLose

NUMBER = {"cat": 0, "dog": 1, "owl": 2}


@pytest.fixture
def write(tmp_path):
    """Write rows, or text; the path."""

    def rows(*rows):
        path = tmp_path / "file.jsonl"
        path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
        return path

    return rows


def row(k, win, lose):
    return {"k": k, "w_win_indices": win, "w_loose_indices": lose}


def test_indices_and_words_are_read_and_topics_may_be_missing(write):
    path = write(row(3, [0, "owl"], [1]), row(1, [2], []))
    assert read_preferences(path, 4, NUMBER) == {3: WinLose((0, 2), (1,)), 1: WinLose((2,), ())}


def test_a_file_without_a_line_has_no_preferences(write):
    assert read_preferences(write(), 4, NUMBER) == {}


def test_the_older_names_of_the_lists_are_read(write):
    path = write({"k": 0, "w_plus_indices": [0], "w_minus_indices": [1]})
    assert read_preferences(path, 1, NUMBER) == {0: WinLose((0,), (1,))}


def test_a_word_counts_once_and_in_both_lists_not_at_all():
    assert without_both([1, 2, 2, 3], [3, 4, 4]) == WinLose((1, 2), (4,))


@pytest.mark.parametrize(
    ("rows", "line", "what"),
    [
        (["{"], ":1", "not JSON"),
        (["[1]"], ":1", "is a JSON array, not an object"),
        ([row(0, [0], [1]), row(4, [0], [1])], ":2", "k must be a topic from 0 to 3, got 4"),
        ([row(-1, [0], [1])], ":1", "k must be a topic from 0 to 3, got -1"),
        ([row("0", [0], [1])], ":1", "k must be a topic from 0 to 3, got '0'"),
        ([row(True, [0], [1])], ":1", "k must be a topic from 0 to 3, got True"),
        ([row(0, [0], [1]), row(0, [0], [1])], ":2", "topic 0 is also at .*:1"),
        ([row(0, 0, [1])], ":1", "w_win_indices must be a list, got 0"),
        ([{"k": 0, "w_win_indices": [0]}], ":1", "w_loose_indices must be a list, got None"),
        ([row(0, [0], [3])], ":1", "3 in w_loose_indices is not a word of the vocabulary, which has 3 words"),
        ([row(0, ["fox"], [1])], ":1", "'fox' in w_win_indices is not a word"),
        ([row(0, [0.0], [1])], ":1", "0.0 in w_win_indices is not a word"),
    ],
)
def test_preferences_that_do_not_fit_are_told_with_their_line(write, rows, line, what):
    path = write(*rows)
    with pytest.raises(DpoError, match=what) as error:
        read_preferences(path, 4, NUMBER)
    assert error.value.where == f"{path}{line}"
    assert error.value.hint


@pytest.mark.parametrize(
    ("read", "good", "bad", "what"),
    [
        (read_scores, {"llm_score": 3}, {"llm_score": 4}, "llm_score must be 1, 2, 3 or null, got 4"),
        (read_scores, {"llm_score": None}, {"llm_score": True}, "llm_score must be"),
        (
            read_descriptions,
            {"main_meaning": "x"},
            {"main_meaning": " "},
            "main_meaning must be text or null",
        ),
        (
            lambda path, topics: read_extra_words(path, topics, [*NUMBER]),
            {"extra_words": [{"owl": 2}]},
            {"extra_words": [{"owl": 1}]},
            "extra_words must be a list of words with their indices",
        ),
    ],
)
def test_a_stages_file_that_was_spoiled_is_told(write, read, good, bad, what):
    with pytest.raises(DpoError, match=what) as error:
        read(write({"k": 0, **good}, {"k": 1, **bad}), 2)
    assert error.value.where.endswith(":2")
    with pytest.raises(DpoError, match="has no line for topic 1, as for 1 of 2 topics"):
        read(write({"k": 0, **good}), 2)
