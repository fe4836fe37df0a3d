"""Rows of every known format: recognised by columns and types, and converted to pairs."""

import json

import pytest

from mlx_dpo.data.known_formats import FORMATS, detected
from mlx_dpo.data.row_files import open_rows
from mlx_dpo.data.row_index import index_rows
from mlx_dpo.data.sources import read_curated, read_pairs
from mlx_dpo.errors import DpoError

from ..support.mistakes import assert_told, cases, lines
from .row_fixtures import ANSWERS, HH, OWN, PAIRS, PROMPTFOO, PROMPTFOO_PAIRS, RANKED, SHP, TLDR
from .row_parts import HOW, NEWS, TALK, feedback, tldr


def turns(prompt):
    return [f"{turn['role']}: {turn['content']}" for turn in prompt]


def as_cases(pairs):
    return [(turns(one.prompt), one.chosen, one.rejected) for one in pairs]


def test_every_format_has_rows_here():
    assert {*PAIRS, *ANSWERS} == set(FORMATS)


@pytest.mark.parametrize("name", PAIRS)
def test_rows_of_another_format_become_pairs(name, file_of, capsys):
    rows, expected = PAIRS[name]
    file = file_of(*rows)
    index = index_rows(file)
    assert as_cases(index.records()) == expected
    assert [index.read(i) for i in range(len(index))] == list(index.records()) == read_pairs(file)
    assert f"rows.jsonl: {name}" in capsys.readouterr().err.replace("\n", " ")
    for row in rows:  # alone, each row is of the format too
        assert detected([row]).name == name


@pytest.mark.parametrize("name", PAIRS)
def test_the_chosen_answers_of_another_format_can_be_learnt(name, file_of):
    rows, expected = PAIRS[name]
    learnt = index_rows(file_of(*rows), answers=True)
    assert len(learnt) == len(rows)
    assert {(*turns(row.prompt), row.chosen) for row in learnt.records()} == {(*p, c) for p, c, _ in expected}


@pytest.mark.parametrize("name", ANSWERS)
def test_rows_with_one_answer_are_curated_rows_and_no_pairs(name, file_of):
    rows, expected = ANSWERS[name]
    file = file_of(*rows)
    assert [(turns(row.prompt), row.answer) for row in read_curated(file)] == expected
    assert [row.chosen for row in index_rows(file, answers=True).records()] == [a for _, a in expected]
    with pytest.raises(DpoError) as caught:
        index_rows(file)
    assert caught.value.where == f"{file}:1" and caught.value.code == "missing-chosen"


@cases(OWN)
def test_our_own_form_as_other_tools_write_it_is_not_told(case, file_of, capsys):
    rows, expected = case
    assert as_cases(read_pairs(file_of(*rows))) == expected
    assert list(open_rows(file_of(*rows)).descriptions()) == []


def test_an_evaluation_of_promptfoo_becomes_pairs_of_its_best_answers(tmp_path):
    whole, results = tmp_path / "eval.json", tmp_path / "eval.jsonl"
    whole.write_text(json.dumps(PROMPTFOO, indent=2))
    results.write_text(lines(*PROMPTFOO["results"]["results"]))
    for file in (whole, results):
        assert as_cases(read_pairs(file)) == PROMPTFOO_PAIRS
        assert next(open_rows(file).descriptions()).startswith(f"{file}: a promptfoo evaluation, {RANKED}")


LONG, ODD = "x" * 2**17, "a\u2028b\x0bc"
"""A text longer than the start of a file that is examined, and one with signs that end lines elsewhere."""


@pytest.mark.parametrize("said", [LONG, ODD])
def test_a_first_result_of_promptfoo_is_known_however_long_and_whatever_signs_it_has(said, tmp_path):
    good, bad, *_ = PROMPTFOO["results"]["results"]
    file = tmp_path / "eval.jsonl"
    rows = [{**good, "response": {"output": said}}, bad]
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    assert as_cases(read_pairs(file)) == [(["user: How?"], "So.", said)]


BAD_RESULTS = {
    "an answer that is no text": ({"response": {"output": {"a": 1}}}, "'response.output' must be text"),
    "another row": ({"response": ...}, "is not a result of promptfoo"),
}


@cases(BAD_RESULTS)
def test_a_result_of_promptfoo_is_not_lost_silently(case, tmp_path):
    changes, what = case
    good, other, *_ = PROMPTFOO["results"]["results"]
    changed = {name: value for name, value in {**other, **changes}.items() if value is not ...}
    (tmp_path / "eval.jsonl").write_text(lines(good, changed))
    with pytest.raises(DpoError) as caught:
        index_rows(tmp_path / "eval.jsonl")
    assert caught.value.where.endswith("eval.jsonl:2") and what in caught.value.what


def test_two_rated_answers_of_open_webui_make_one_pair_though_each_has_a_record(file_of):
    first, second = feedback(1, x=1, y=-1), {**feedback(-1, x=1, y=-1), "id": "of y"}
    second["meta"] = {**second["meta"], "message_id": "y"}
    index = index_rows(file_of(first, second))
    assert as_cases(index.records()) == [(TALK, "So.", "Thus.")]
    assert [*index.left_out.found] == ["the record of the better answer gives this pair"]


def test_a_system_prompt_of_open_webui_is_used(file_of):
    row = feedback(1)
    row["snapshot"]["chat"]["chat"]["params"] = {"system": "Be brief.", "temperature": 1}
    assert as_cases(read_pairs(file_of(row))) == [(["system: Be brief.", *TALK], "So.", "Thus.")]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_transcript_may_have_the_line_ends_of_windows(end, file_of):
    row = {name: text.replace("\n", end) for name, text in PAIRS[HH][0][1].items()}
    assert as_cases(read_pairs(file_of(row))) == [(TALK, f"So.{end}{end}Human", "Thus.")]


def test_whole_numbers_may_have_a_point_as_pandas_writes_them(file_of):
    tldr = PAIRS[TLDR][0]
    found = read_pairs(file_of(*({**row, "choice": float(row["choice"])} for row in tldr)))
    assert as_cases(found) == PAIRS[TLDR][1]
    shp = {**PAIRS[SHP][0][0], "labels": 1.0}
    assert as_cases(read_pairs(file_of(shp))) == PAIRS[SHP][1][:1]
    with pytest.raises(DpoError, match="'labels' must be a whole number"):
        read_pairs(file_of(*[shp] * 2, {**shp, "labels": 0.5}))


def test_a_vote_may_be_true_in_capitals(file_of):
    row = {**PAIRS["Chatbot Arena votes"][0][0], "winner_model_a": "FALSE", "winner_model_b": "TRUE"}
    assert as_cases(read_pairs(file_of(row))) == [(["user: How?"], "Thus.", "So.")]


def test_text_beside_a_prompt_is_part_of_it(file_of):
    ranks = {"responses": ["So.", "Thus."], "scores": [2, 1]}
    row = {"prompt": "Translate.", "input": "Wie?", "history": [["Hi.", "Hello."]], **ranks}
    expected = ["user: Hi.", "assistant: Hello.", "user: Translate.\n\nWie?"]
    assert as_cases(read_pairs(file_of(row))) == [(expected, "So.", "Thus.")]
    dolly = {"instruction": "How?", "context": "A kettle.", "input": "An oven.", "response": "So."}
    (found,) = read_curated(file_of(dolly))
    assert turns(found.prompt) == ["user: How?\n\nA kettle.\n\nAn oven."]


def test_scores_of_ranked_answers_are_in_meta(file_of):
    first, second, *_ = read_pairs(file_of(*PAIRS[RANKED][0]))
    assert first.meta == {"score_chosen": 4.75, "score_rejected": 3.0}
    assert (first.id, second.id) == ("line-1/1", "line-1/2")


NO_PAIR = {
    "an HH row with an empty last turn": (
        PAIRS["HH-RLHF transcripts"][0][0],
        {"chosen": "\n\nHuman: How?\n\nAssistant:", "rejected": "\n\nHuman: How?\n\nAssistant: Thus."},
        "an answer is empty",
    ),
    "HH transcripts that differ earlier": (
        PAIRS["HH-RLHF transcripts"][0][0],
        {"chosen": "\n\nHuman: How?\n\nAssistant: So.", "rejected": "\n\nHuman: Why?\n\nAssistant: Thus."},
        "the conversations differ before the last answer",
    ),
    "a tie of Argilla's": (
        PAIRS["distilabel Orca pairs"][0][0],
        {"input": "How?", "chosen": "So.", "rejected": "Thus.", "status": "tie"},
        "a tie",
    ),
    "equal scores": (
        PAIRS[RANKED][0][2],
        {"prompt": "How?", "responses": ["So.", "Thus."], "scores": [3, 3]},
        "no two answers with different scores",
    ),
    "a tie in the arena": (
        PAIRS["Chatbot Arena battles"][0][0],
        {**PAIRS["Chatbot Arena battles"][0][0], "winner": "tie (bothbad)"},
        "a tie",
    ),
    "votes without a majority": (
        PAIRS["PandaLM votes"][0][0],
        {**PAIRS["PandaLM votes"][0][0], "annotator2": 0, "annotator1": 1},
        "a tie",
    ),
    "a summary of nothing": (
        PAIRS["TL;DR comparisons"][0][0],
        tldr({**NEWS, "article": None}, "So.", "Thus.", 0),
        "neither a post nor an article",
    ),
    "a thumb without another answer": (
        PAIRS["open-webui feedback"][0][0],
        {**feedback(1), "meta": {"message_id": "a1"}},
        "one rated answer, without another answer to the same message",
    ),
}
"""A row that gives a pair, a row of the same format that gives none, and the reason."""


@cases(NO_PAIR)
def test_a_row_that_makes_no_pair_is_left_out_and_named_with_the_reason(case, file_of, capsys):
    good, other, reason = case
    file = file_of(good, other)
    index = index_rows(file)
    assert len(index) == 1
    for found in (index, index_rows(file)):  # made, then found
        assert found.left_out.text(found.source.where) == f"no pair from 1 row, {reason}: {file}:2"
    read_pairs(file)
    assert reason in capsys.readouterr().err.replace("\n", " ")


def test_a_file_in_which_no_row_makes_a_pair_is_refused(file_of):
    _, tie, _ = NO_PAIR["a tie in the arena"]
    for read in (index_rows, read_pairs):
        with pytest.raises(DpoError, match=r"has no row that makes a pair \(2: a tie\)"):
            read(file_of(tie, tie))


def test_columns_that_no_format_uses_are_named(file_of):
    assert index_rows(file_of(*PAIRS["Stack Exchange pairs"][0])).unused == {"qid": 1, "date": 1}
    assert index_rows(file_of(*PAIRS["axolotl pairs"][0])).unused == {}


OTHER_PROMPTS = [
    {"query": "How?"},
    {"Prompt (EN)": "How?"},
    {"user_input": "How?"},
    {"problem": "How?"},
    {"dialogue": [["How?"]]},
    {"Context": "A kettle."},
]


@pytest.mark.parametrize("other", OTHER_PROMPTS, ids=str)
def test_a_shared_start_of_the_answers_is_no_prompt_where_a_column_may_be_the_prompt(other, file_of):
    row = {**other, "chosen": "The sky is blue.", "rejected": "The sky is green."}
    with pytest.raises(DpoError) as caught:
        index_rows(file_of(row))
    assert_told(caught.value, caught.value.where, "'prompt' is missing", code="missing-prompt")


def test_columns_about_the_row_leave_the_shared_start_the_prompt(file_of):
    about = {
        "id": "a",
        "source": "web",
        "score_chosen": 4.0,
        "prompt": None,
        "user_id": 7,
        "chosen_model": "m",
    }
    row = {**about, "chosen": "The sky is blue.", "rejected": "The sky is green."}
    assert as_cases(read_pairs(file_of(row))) == [(["user: The sky is"], "blue.", "green.")]


def test_a_text_of_the_prompt_is_not_made_of_half_words(file_of):
    row = {"chosen": "Is it 12? Yes.", "rejected": "Is it 13? No."}
    assert as_cases(read_pairs(file_of(row))) == [(["user: Is it"], "12? Yes.", "13? No.")]


def test_think_blocks_and_tools_pass_through_a_format(file_of):
    tools = [{"type": "function", "function": {"name": "find", "parameters": {}}}]
    call = {"type": "function", "function": {"name": "find", "arguments": {"q": "x"}}}
    row = {
        "messages": HOW,
        "tools": tools,
        "chosen": {"role": "assistant", "content": "So.", "reasoning_content": "Hm."},
        "rejected": {"role": "assistant", "content": "", "tool_calls": [call]},
    }
    (found,) = read_pairs(file_of(row))
    assert found.tools == tuple(tools)
    assert found.chosen_turn["reasoning_content"] == "Hm." and found.rejected_turn["tool_calls"] == [call]
