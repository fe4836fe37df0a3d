"""Pairs in memory are read, checked and refused as those of a file are."""

import json
from dataclasses import replace

import pytest

import mlx_dpo
from mlx_dpo import DpoError
from mlx_dpo.api.pairs import as_row
from mlx_dpo.data.own_format import to_preference

from ..data.test_own_format import PAIRS

PAIR = {"prompt": "Q", "chosen": "yes", "rejected": "no"}
CALL = {"type": "function", "function": {"name": "clock", "arguments": {"zone": "CET"}}}
TOOLS = [{"type": "function", "function": {"name": "clock", "description": "The time."}}]
RICH = {
    "text cut off, with an id and meta": {
        **PAIR,
        "id": 7,
        "meta": {"source": ["a", 1, None]},
        "chosen_cut": True,
        "system": "Be brief. Où?",
    },
    "a tool's call and its answer in the prompt": {
        "prompt": [
            {"role": "user", "content": "What time is it?"},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "content": "noon", "name": "clock"},
        ],
        "chosen": "Noon.",
        "rejected": "No idea.",
        "tools": TOOLS,
    },
    "an answer that calls a tool, another that reasons": {
        "prompt": "What time is it?",
        "chosen": [{"role": "assistant", "content": "", "tool_calls": [CALL]}],
        "rejected": [{"role": "assistant", "content": "Noon.", "reasoning_content": "A guess will do."}],
        "tools": TOOLS,
        "rejected_cut": True,
    },
}
ROWS = {**{name: row for name, (row, *_) in PAIRS.items()}, **RICH}


@pytest.mark.parametrize("shape", ROWS)
def test_a_pair_written_as_a_row_is_read_as_the_same_pair(shape):
    pair = to_preference(ROWS[shape], "rows.jsonl:1")
    row = json.loads(json.dumps(as_row(pair)))
    assert to_preference(row, "rows.jsonl:1") == pair


def test_rows_in_memory_are_the_rows_of_the_file(write_rows):
    rows = [{**row, "id": str(number)} for number, row in enumerate(ROWS.values())]
    of_file = mlx_dpo.read_pairs(write_rows("rows.jsonl", rows))
    in_memory = mlx_dpo.read_pairs(iter(rows))
    assert [pair.where for pair in in_memory] == [f"pairs[{n}]" for n in range(len(rows))]
    assert [replace(pair, where="") for pair in in_memory] == [replace(pair, where="") for pair in of_file]
    assert mlx_dpo.read_pairs(in_memory) == in_memory


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "pairs: has no rows"),
        ([PAIR, {"prompt": "Q", "chosen": "yes"}], "pairs[1]: 'rejected' is missing"),
        ([PAIR, {**PAIR, "chosen": " "}], "pairs[1]: 'chosen' is empty"),
        ([PAIR, {**PAIR, "chosen": "half \ud83d"}], "pairs[1]: contains half of a character: '\\ud83d'"),
        (
            [{**PAIR, "id": "a"}, PAIR, {**PAIR, "id": "a"}],
            "pairs[2]: the id 'a' is also used at pairs[0]",
        ),
        ([PAIR, "prompt"], "pairs[1]: is a str, not a dict"),
        (PAIR, "pairs[0]: is a str, not a dict"),
        (
            [PAIR, {**PAIR, "prompt": {1, 2}}],
            "pairs[1]: cannot be written as JSON: Object of type set is not JSON serializable",
        ),
    ],
    ids=["none", "missing", "empty", "half", "same id", "text", "one dict", "a set"],
)
def test_a_bad_pair_is_named_by_its_place_in_the_list(rows, message):
    with pytest.raises(DpoError) as caught:
        mlx_dpo.read_pairs(rows)
    assert str(caught.value).splitlines()[0] == message
    assert caught.value.hint
    assert ".jsonl" not in str(caught.value)


def test_a_bad_row_of_a_file_is_named_by_its_line(write_rows):
    path = write_rows("rows.jsonl", [PAIR, {"prompt": "Q", "chosen": "yes"}])
    with pytest.raises(DpoError, match="'rejected' is missing") as caught:
        mlx_dpo.read_pairs(path)
    assert caught.value.where == f"{path}:2"


@pytest.mark.parametrize("bad", [{"chosen": "half \ud83d"}, {"chosen": 7}, {"id": "a"}])
def test_an_error_in_memory_is_that_of_the_file_but_for_the_place(bad, write_rows):
    rows = [{**PAIR, "id": "a"}, PAIR, {**PAIR, **bad}]
    path, errors = write_rows("rows.jsonl", rows), []
    for source in (path, rows):
        with pytest.raises(DpoError) as caught:
            mlx_dpo.read_pairs(source)
        errors.append(caught.value)
    of_file, in_memory = errors
    assert (of_file.where, in_memory.where) == (f"{path}:3", "pairs[2]")
    assert (in_memory.code, in_memory.hint) == (of_file.code, of_file.hint)
    assert in_memory.what == of_file.what.replace(f"{path}:1", "pairs[0]")
    assert in_memory.code


def test_pairs_in_memory_leave_no_file_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mlx_dpo.read_pairs([PAIR])
    with pytest.raises(DpoError):
        mlx_dpo.read_pairs([{}])
    assert list(tmp_path.iterdir()) == []
