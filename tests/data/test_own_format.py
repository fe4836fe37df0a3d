"""What a row may look like: every accepted shape gives the record it means."""

import pytest

from mlx_dpo.data.own_format import to_curated, to_preference
from mlx_dpo.data.sources import read_curated, read_pairs
from mlx_dpo.errors import DpoError
from mlx_dpo.records import Curated, Preference

from ..support.mistakes import assert_told

WHERE = "pairs.jsonl:7"


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


PAIRS = {
    "three strings": (
        {"prompt": "Q", "chosen": "yes", "rejected": "no"},
        (user("Q"),),
    ),
    "a prompt of messages, answers as strings": (
        {"prompt": [user("Q")], "chosen": "yes", "rejected": "no"},
        (user("Q"),),
    ),
    "messages throughout": (
        {"prompt": [user("Q")], "chosen": [assistant("yes")], "rejected": [assistant("no")]},
        (user("Q"),),
    ),
    "a prompt string, answers as messages": (
        {"prompt": "Q", "chosen": [assistant("yes")], "rejected": [assistant("no")]},
        (user("Q"),),
    ),
    "one answer a string, the other a message": (
        {"prompt": "Q", "chosen": "yes", "rejected": [assistant("no")]},
        (user("Q"),),
    ),
    "a prompt of several turns": (
        {
            "prompt": [system("S"), user("Q"), assistant("A"), user("and?")],
            "chosen": [assistant("yes")],
            "rejected": [assistant("no")],
        },
        (system("S"), user("Q"), assistant("A"), user("and?")),
    ),
    "whole conversations without a prompt": (
        {"chosen": [user("Q"), assistant("yes")], "rejected": [user("Q"), assistant("no")]},
        (user("Q"),),
    ),
    "whole conversations of several turns": (
        {
            "chosen": [system("S"), user("Q"), assistant("A"), user("and?"), assistant("yes")],
            "rejected": [system("S"), user("Q"), assistant("A"), user("and?"), assistant("no")],
        },
        (system("S"), user("Q"), assistant("A"), user("and?")),
    ),
    "whole conversations beside a prompt string that says less": (
        {
            "prompt": "and?",
            "chosen": [user("Q"), assistant("A"), user("and?"), assistant("yes")],
            "rejected": [user("Q"), assistant("A"), user("and?"), assistant("no")],
        },
        (user("Q"), assistant("A"), user("and?")),
    ),
    "whole conversations beside a transcript of their prompt": (
        {
            "prompt": "\n\nHuman: Q\n\nAssistant: A\n\nHuman: and?\n\nAssistant:",
            "chosen": [user("Q"), assistant("A"), user("and?"), assistant("yes")],
            "rejected": [user("Q"), assistant("A"), user("and?"), assistant("no")],
        },
        (user("Q"), assistant("A"), user("and?")),
    ),
    "whole conversations beside their own prompt": (
        {
            "prompt": [user("Q")],
            "chosen": [user("Q"), assistant("yes")],
            "rejected": [user("Q"), assistant("no")],
        },
        (user("Q"),),
    ),
    "a system string": (
        {"system": "S", "prompt": "Q", "chosen": "yes", "rejected": "no"},
        (system("S"), user("Q")),
    ),
    "a system string before whole conversations": (
        {"system": "S", "chosen": [user("Q"), assistant("yes")], "rejected": [user("Q"), assistant("no")]},
        (system("S"), user("Q")),
    ),
    "a system string that the prompt begins with too": (
        {"system": " S", "prompt": [system("S"), user("Q")], "chosen": "yes", "rejected": "no"},
        (system("S"), user("Q")),
    ),
    "an empty system string": (
        {"system": "", "prompt": "Q", "chosen": "yes", "rejected": "no"},
        (user("Q"),),
    ),
    "fields nobody asked for": (
        {"prompt": "Q", "chosen": "yes", "rejected": "no", "score_chosen": 9.0, "source": "web"},
        (user("Q"),),
    ),
}


@pytest.mark.parametrize("shape", PAIRS)
def test_every_shape_of_a_pair_means_one_prompt_and_two_answers(shape):
    row, prompt = PAIRS[shape]
    assert to_preference(row, WHERE) == Preference(prompt, "yes", "no", "line-7", WHERE, {})


CURATED = {
    "prompt and answer": ({"prompt": "Q", "answer": "A"}, (user("Q"),)),
    "question and answer": ({"question": "Q", "answer": "A"}, (user("Q"),)),
    "prompt and completion": ({"prompt": "Q", "completion": "A"}, (user("Q"),)),
    "question and completion": ({"question": "Q", "completion": "A"}, (user("Q"),)),
    "a prompt beside a question": ({"question": "no", "prompt": "Q", "answer": "A"}, (user("Q"),)),
    "an answer beside a completion": ({"prompt": "Q", "answer": "A", "completion": "no"}, (user("Q"),)),
    "messages in prompt and answer": ({"prompt": [user("Q")], "answer": [assistant("A")]}, (user("Q"),)),
    "messages": ({"messages": [user("Q"), assistant("A")]}, (user("Q"),)),
    "messages of several turns": (
        {"messages": [system("S"), user("Q"), assistant("B"), user("and?"), assistant("A")]},
        (system("S"), user("Q"), assistant("B"), user("and?")),
    ),
    "a system string": ({"system": "S", "question": "Q", "answer": "A"}, (system("S"), user("Q"))),
    "a system string before messages": (
        {"system": "S", "messages": [user("Q"), assistant("A")]},
        (system("S"), user("Q")),
    ),
}


@pytest.mark.parametrize("shape", CURATED)
def test_every_shape_of_a_curated_row_means_one_prompt_and_one_answer(shape):
    row, prompt = CURATED[shape]
    assert to_curated(row, WHERE) == Curated(prompt, "A", "line-7", WHERE)


def test_outer_white_space_goes_and_inner_stays():
    row = {"prompt": "\n Q  q\t", "chosen": "  yes\n\n indeed \n", "rejected": [assistant("\u00a0no ")]}
    pair = to_preference(row | {"system": " S "}, WHERE)
    assert pair.prompt == (system("S"), user("Q  q"))
    assert (pair.chosen, pair.rejected) == ("yes\n\n indeed", "no")
    curated = to_curated({"question": " Q ", "answer": "\tA\n"}, WHERE)
    assert curated == Curated((user("Q"),), "A", "line-7", WHERE)


def test_conversations_that_differ_in_outer_white_space_only_share_their_prompt():
    row = {"chosen": [user("Q "), assistant("yes")], "rejected": [user(" Q"), assistant("no")]}
    assert to_preference(row, WHERE).prompt == (user("Q"),)


def test_keys_of_a_message_beside_role_and_content_are_left_behind():
    row = {"prompt": [user("Q") | {"name": "Ann"}], "chosen": "yes", "rejected": "no"}
    assert to_preference(row, WHERE).prompt == (user("Q"),)


def test_a_row_keeps_its_id_as_text_or_takes_its_line_number():
    row = {"prompt": "Q", "chosen": "yes", "rejected": "no"}
    assert to_preference(row | {"id": "a-1"}, WHERE).id == "a-1"
    assert to_preference(row | {"id": 12}, WHERE).id == "12"
    assert to_preference(row | {"id": 0}, WHERE).id == "0"
    assert to_preference(row, "C:/my data:2/pairs.jsonl:31").id == "line-31"
    assert to_curated({"prompt": "Q", "answer": "A", "id": 3}, WHERE).id == "3"


def test_a_pair_keeps_its_meta():
    row = {"prompt": "Q", "chosen": "yes", "rejected": "no"}
    assert to_preference(row | {"meta": {"model": "m", "n": [1]}}, WHERE).meta == {"model": "m", "n": [1]}
    assert to_preference(row | {"meta": None}, WHERE).meta == {}


PAIR = {"prompt": "Q", "chosen": "yes", "rejected": "no"}


@pytest.mark.parametrize(
    ("row", "phrase", "code"),
    [
        ({"prompt": "Q", "completion": "A", "label": True}, "(completion, label)", "unpaired"),
        ({"prompt": "Q", "chosen": "yes"}, "'rejected' is missing", "missing-rejected"),
        ({"chosen": "yes", "rejected": "no"}, "'prompt' is missing", "missing-prompt"),
        (PAIR | {"chosen": " \n"}, "'chosen' is empty", "empty-chosen"),
        (PAIR | {"rejected": None}, "'rejected' is empty", "empty-rejected"),
        (PAIR | {"prompt": []}, "'prompt' is empty", "empty-prompt"),
        (PAIR | {"chosen": 5}, "'chosen' must be text, got a number", "wrong-type"),
        (PAIR | {"prompt": {"role": "user"}}, "'prompt' must be text, got an object", "wrong-type"),
        (PAIR | {"prompt": ["Q"]}, "'prompt'", "bad-turn"),
        (PAIR | {"prompt": [{"role": "human", "content": "Q"}]}, "'human'", "bad-role"),
        (PAIR | {"prompt": [user(" ")]}, "'prompt' is empty", "empty-prompt"),
        (PAIR | {"prompt": [user("Q"), assistant("A")]}, "a user turn", "prompt-ends-in-answer"),
        (PAIR | {"chosen": [user("yes")]}, "'chosen' must be one assistant message", "not-one-answer"),
        (PAIR | {"chosen": [user("Q"), assistant("yes")]}, "'chosen' must be one", "not-one-answer"),
        (
            {"chosen": [user("Q"), assistant("yes")], "rejected": [user("R"), assistant("no")]},
            "chosen and rejected differ",
            "conversations-part",
        ),
        (
            {"chosen": [user("Q"), user("yes")], "rejected": [user("Q"), assistant("no")]},
            "chosen and rejected differ",
            "conversations-part",
        ),
        (
            {
                "prompt": [user("Q")],
                "chosen": [assistant("A"), user("and?"), assistant("yes")],
                "rejected": [assistant("A"), user("and?"), assistant("no")],
            },
            "'prompt' differs",
            "prompt-differs",
        ),
        (PAIR | {"system": ["S"]}, "'system' must be text, got a list", "wrong-type"),
        (PAIR | {"system": "S", "prompt": [system("T"), user("Q")]}, "'system'", "two-systems"),
        (PAIR | {"id": 1.5}, "'id' must be text or a whole number", "wrong-type"),
        (PAIR | {"id": True}, "'id' must be text or a whole number", "wrong-type"),
    ],
)
def test_a_row_that_is_no_pair_is_refused_by_place(row, phrase, code):
    with pytest.raises(DpoError) as caught:
        to_preference(row, WHERE)
    assert_told(caught.value, WHERE, phrase, code=code)


@pytest.mark.parametrize(
    ("row", "phrase", "code"),
    [
        ({"answer": "A"}, "'prompt' is missing", "missing-prompt"),
        ({"prompt": "Q"}, "'answer' is missing", "missing-answer"),
        ({"text": "Q A"}, "'prompt' is missing", "missing-prompt"),
        ({"prompt": "Q", "answer": ""}, "'answer' is empty", "empty-answer"),
        ({"question": "", "answer": "A"}, "'question' is empty", "empty-prompt"),
        ({"messages": []}, "'messages' must end with an assistant turn", "not-one-answer"),
        ({"messages": [assistant("A")]}, "'messages' must end with an assistant turn", "not-one-answer"),
        ({"messages": [assistant("A"), user("Q")]}, "'messages' must end", "not-one-answer"),
        ({"messages": [user("Q"), assistant("B"), assistant("A")]}, "a user turn", "prompt-ends-in-answer"),
        ({"messages": "Q A"}, "'messages' must be a list of messages, got text", "wrong-type"),
    ],
)
def test_a_row_that_is_no_curated_answer_is_refused_by_place(row, phrase, code):
    with pytest.raises(DpoError) as caught:
        to_curated(row, WHERE)
    assert_told(caught.value, WHERE, phrase, code=code)


def test_a_prompt_of_no_turns_is_empty():
    turns = [user("Q"), assistant("A")]
    row = {"prompt": [], "chosen": turns, "rejected": [user("Q"), assistant("B")]}
    with pytest.raises(DpoError, match="'prompt' is empty"):
        to_preference(row, WHERE)


def test_a_file_keeps_its_order_and_the_line_of_each_row(tmp_path):
    path = tmp_path / "pairs.jsonl"
    line = '{"prompt": "é", "chosen": "yes", "rejected": "no"%s}\n'
    path.write_text(line % ', "id": "b"' + "\n" + line % "" + line % ', "id": "a"', encoding="utf-8")
    rows = read_pairs(path)
    assert [(r.id, r.where) for r in rows] == [
        ("b", f"{path}:1"),
        ("line-3", f"{path}:3"),
        ("a", f"{path}:4"),
    ]
    assert rows[0].prompt == (user("é"),)


def test_the_same_id_twice_is_refused_with_both_places(tmp_path):
    path = tmp_path / "curated.jsonl"
    path.write_text('{"id": "1", "prompt": "Q", "answer": "A"}\n{"id": 1, "prompt": "R", "answer": "B"}\n')
    with pytest.raises(DpoError) as caught:
        read_curated(path)
    assert_told(caught.value, f"{path}:2", f"the id '1' is also used at {path}:1", code="duplicate-id")
