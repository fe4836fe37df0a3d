"""Nothing of a row is left out in silence: it is scored, or named as not used, or the row is refused."""

import pytest

from mlx_dpo.data.own_format import to_curated, to_preference
from mlx_dpo.data.unusable_rows import unused_columns
from mlx_dpo.errors import DpoError

from ..support.mistakes import assert_told, cases
from ..support.tool_rows import PAIR, WHERE, assistant, call, calls, user

CONVERSATIONS = {
    "chosen": [user("Where is it?"), assistant("In a jar.")],
    "rejected": [user("Where is it?"), assistant("No.")],
}
REFUSED = {
    "arguments beside the function": (
        calls({"type": "function", "function": {"name": "find"}, "arguments": {"q": "jar"}}),
        "'chosen' has a tool call with 'arguments' outside",
        "bad-tools",
    ),
    "arguments under two names": (
        calls(call(parameters={"q": "jar"})),
        "'chosen' has a tool call with 'parameters' outside",
        "bad-tools",
    ),
    "arguments under two names without a function": (
        calls({"name": "find", "arguments": {}, "input": {"q": "jar"}}),
        "'chosen' has a tool call with 'input' outside",
        "bad-tools",
    ),
    "another question than the conversations'": (
        CONVERSATIONS | {"question": "Given the text, where is it?"},
        "'question' differs",
        "prompt-differs",
    ),
    "two reasonings": (
        PAIR | {"chosen": [assistant("In a jar.", reasoning_content="Damp.", thinking="Mice.")]},
        "reasoning_content and thinking differ",
        "bad-turn",
    ),
    "an image in a text part": (
        PAIR | {"prompt": [user([{"type": "text", "text": "Where?", "image_url": "a.png"}])]},
        "'prompt' has image_url in a turn",
        "not-text",
    ),
    "an image's address in a turn": (
        PAIR | {"prompt": [user("Where?") | {"image_url": "a.png"}]},
        "'prompt' has image_url in a turn",
        "not-text",
    ),
    "a name twice in arguments": (
        calls(call(arguments='{"q": "jar", "q": "tin"}')),
        "'q' is written twice",
        "written-twice",
    ),
    "a name twice in tools": (
        PAIR | {"tools": '[{"name": "find", "name": "seek"}]'},
        "'name' is written twice",
        "written-twice",
    ),
}


@cases(REFUSED)
def test_what_would_vanish_from_a_row_refuses_it(case):
    row, phrase, code = case
    with pytest.raises(DpoError) as caught:
        to_preference(row, WHERE)
    assert_told(caught.value, WHERE, phrase, code=code)


def test_a_question_that_contradicts_messages_is_refused():
    row = {"messages": CONVERSATIONS["chosen"], "question": "Why?"}
    with pytest.raises(DpoError, match="'question' differs from the start"):
        to_curated(row, WHERE)


def test_a_question_that_the_conversation_asks_is_accepted():
    for question in ("Where is it?", "", None, [user("Where is it?")]):
        assert to_preference(CONVERSATIONS | {"question": question}, WHERE).prompt == (user("Where is it?"),)


def test_the_same_reasoning_under_two_names_is_one():
    row = PAIR | {"chosen": [assistant("In a jar.", reasoning="Damp.", thinking=" Damp.\n")]}
    assert to_preference(row, WHERE).chosen_turn["reasoning_content"] == "Damp."


UNUSED = {
    "output of a call": (calls(call() | {"output": "a jar"}), "chosen[].tool_calls[].output"),
    "a field of the function": (calls(call(strict=True)), "chosen[].tool_calls[].function.strict"),
    "a field of a flat call": (
        calls({"name": "find", "arguments": {}, "index": 1}),
        "chosen[].tool_calls[].index",
    ),
    "citations of a text part": (
        PAIR | {"prompt": [user([{"type": "text", "text": "Where?", "citations": ["a"]}])]},
        "prompt[].content[].citations",
    ),
}


@cases(UNUSED)
def test_what_is_not_used_within_turns_is_named(case):
    row, name = case
    to_preference(row, WHERE)
    assert list(unused_columns(row)) == [name]


def test_what_every_call_has_is_not_named():
    row = calls(call(arguments='{"q": 1}') | {"id": "a"}, {"name": "find", "arguments": None, "type": ""})
    to_preference(row, WHERE)
    assert list(unused_columns(row)) == []


@pytest.mark.parametrize("tools", ["[]", "null", " ", "", [], None])
def test_no_tools_are_none_however_they_are_written(tools):
    assert to_preference(PAIR | {"tools": tools}, WHERE).tools == ()


@pytest.mark.parametrize("tools", ["find", "{}x", "[1]", '"[]"', [1]])
def test_tools_that_are_none_are_refused(tools):
    with pytest.raises(DpoError, match="'tools' must be a list of tool definitions"):
        to_preference(PAIR | {"tools": tools}, WHERE)
