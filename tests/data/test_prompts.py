"""Rows that have a prompt and no answer."""

import pytest

from mlx_dpo.data.sources import read_questions
from mlx_dpo.errors import DpoError
from mlx_dpo.records import Curated, Prompt

ASKED = ({"role": "user", "content": "Why?"},)
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "Why?"}, ASKED),
        ({"question": " Why? ", "topic": "cars"}, ASKED),
        ({"instruction": "Why?"}, ASKED),
        ({"instruction": "Why?", "input": ""}, ASKED),
        (
            {"instruction": "Sum up.", "input": "A long text."},
            ({"role": "user", "content": "Sum up.\n\nA long text."},),
        ),
        ({"messages": [{"role": "user", "content": "Why?"}]}, ASKED),
        ({"messages": [SYSTEM, *ASKED]}, (SYSTEM, *ASKED)),
        ({"prompt": [SYSTEM, *ASKED]}, (SYSTEM, *ASKED)),
        ({"system": "Be brief.", "prompt": "Why?"}, (SYSTEM, *ASKED)),
    ],
    ids=str,
)
def test_a_prompt_in_each_of_its_forms(row, prompt, write_rows):
    path = write_rows("rows.jsonl", [row, {**row, "id": "own"}])
    assert read_questions(path) == [Prompt(prompt, "line-1", f"{path}:1"), Prompt(prompt, "own", f"{path}:2")]


def test_rows_with_answers_are_curated_rows(write_rows):
    path = write_rows("rows.jsonl", [{"prompt": "Why?", "answer": "So."}])
    assert read_questions(path) == [Curated(ASKED, "So.", "line-1", f"{path}:1")]


@pytest.mark.parametrize(
    ("rows", "line", "what"),
    [
        ([{"prompt": "Why?", "answer": "So."}, {"prompt": "When?"}], 2, "'answer' is missing"),
        ([{"prompt": "Why?", "response": "So."}], 1, "'answer' is missing; the row has 'response'"),
        ([{"prompt": "Why?", "answer": ""}], 1, "'answer'"),
        ([{"prompt": "Why?"}, {"prompt": "When?", "answer": "Now."}], 2, "has 'answer', but the first row"),
        ([{"prompt": "Why?"}, {"question": ""}], 2, "'question'"),
        ([{"prompt": "Why?"}, {"text": "Why?"}], 2, "'prompt' is missing"),
        ([{"prompt": "Why?", "context": "A text."}], 1, "'context' is not part of the prompt"),
    ],
    ids=str,
)
def test_a_row_that_is_neither_is_named(rows, line, what, write_rows):
    path = write_rows("rows.jsonl", rows)
    with pytest.raises(DpoError) as caught:
        read_questions(path)
    assert caught.value.where == f"{path}:{line}" and what in caught.value.what


def test_columns_that_are_not_used_are_told_and_those_of_the_prompt_are_not(write_rows, capsys):
    rows = [{"instruction": "Sum up.", "input": f"Text {i}.", "topic": "cars"} for i in range(2)]
    read_questions(write_rows("rows.jsonl", rows))
    said = capsys.readouterr().err
    assert "'topic' (2)" in said and "'instruction'" not in said and "'input'" not in said
