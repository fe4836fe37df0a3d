"""A chat template that leaves out a part of a row, or fails on it, refuses the row and says why."""

import json
import re

import pytest

from mlx_dpo.config import load_config
from mlx_dpo.data.own_format import to_preference
from mlx_dpo.data.tokenize import RowTokenizer
from mlx_dpo.errors import DpoError
from mlx_dpo.jobs.gen_pairs import generate_pairs
from mlx_dpo.models.load import ModelConfig, load_tokenizer

from ..support.families import FAMILIES, TEMPLATES, write_family
from ..support.mistakes import assert_told, cases
from ..support.tool_rows import PAIR, WHERE, assistant, call, calls, user

QWEN3 = FAMILIES["qwen3"].template


def tool(name, **parameters):
    properties = {key: {"type": "string", "description": text} for key, text in parameters.items()}
    own = {"name": name, "description": f"How to {name}", "parameters": {"properties": properties}}
    return {"type": "function", "function": own}


TOOLS = {"tools": [tool("find", place="the room"), tool("seek", when="the day")]}
ANSWER = calls(call("find", {"q": "jar", "n": [1, {"deep": True}]}), call("seek", {"q": "tin"}))
TURNED = PAIR | {
    "prompt": [
        {"role": "system", "content": "Be kind."},
        user("Where is the flour?"),
        assistant("Let me look.", tool_calls=ANSWER["chosen"][0]["tool_calls"]),
        {"role": "tool", "name": "find", "content": 'the "jar" on the upper shelf'},
        assistant("In the jar."),
        user("Which of the three jars, and is it full?"),
    ]
}
PRINTED = "{'name': call.function.name, 'arguments': call.function.arguments} | tojson"
LOOP = "{% for call in m.tool_calls %}"
LEAVES_OUT = {
    "the second call": (
        LOOP,
        "{% for call in (m.tool_calls or [])[:1] %}",
        ANSWER,
        "tool call 2 of this answer",
    ),
    "the second call of an earlier turn": (
        LOOP,
        "{% for call in (m.tool_calls or [])[:1] %}",
        TURNED,
        "tool call 2 of turn 3",
    ),
    "arguments": (
        PRINTED,
        "call.function.name",
        ANSWER,
        "the arguments in the tool calls of this answer",
    ),
    "names of arguments": (
        PRINTED,
        "{'name': call.function.name, 'arguments': call.function.arguments.values() | list} | tojson",
        ANSWER,
        "the arguments in the tool calls of this answer",
    ),
    "one argument": (
        PRINTED,
        "{'name': call.function.name, 'arguments': {'q': call.function.arguments.q}} | tojson",
        ANSWER,
        "the arguments in the tool calls of this answer",
    ),
    "ends of arguments": (
        PRINTED,
        "({'name': call.function.name, 'arguments': call.function.arguments} | tojson)[:40]",
        calls(call("find", {"q": "a jar of flour on the upper shelf"})),
        "a part of the arguments in the tool calls of this answer",
    ),
    "the second tool": ("in tools %}", "in tools[:1] %}", PAIR | TOOLS, "tool 2 of 'tools'"),
    "all of tools but names": (
        "tool | tojson",
        "tool.function.name",
        PAIR | TOOLS,
        "a description in 'tools'",
    ),
    "parameters of tools": (
        "tool | tojson",
        "tool.function.name + tool.function.description",
        PAIR | TOOLS,
        "the parameters in 'tools'",
    ),
    "ends of a user's turns": (
        "user\\n' + m.content",
        "user\\n' + m.content[:12]",
        TURNED,
        "a part of turn 2 of the prompt",
    ),
    "the end of the only turn": (
        "user\\n' + m.content",
        "user\\n' + m.content[:12]",
        PAIR | {"prompt": "Where is the flour?"},
        "a part of turn 1 of the prompt",
    ),
    "tool turns but their length": (
        "<tool_response>\\n' + m.content",
        "<tool_response>\\n' + (m.content | length | string)",
        TURNED,
        "leaves out turn 4 of the prompt",
    ),
    "starts of a user's turns": (
        "user\\n' + m.content",
        "user\\n' + m.content.split('</think>')|last",
        PAIR | {"prompt": "What does <think>a</think> mean?"},
        "a part of turn 1 of the prompt",
    ),
    "a turn whose text is in another": (
        "{% if m.role == 'user' %}\n",
        "{% if m.role == 'user' and not loop.first %}\n",
        PAIR | {"prompt": [user("jar"), assistant("So?"), user("The jar.")]},
        "leaves out turn 1 of the prompt",
    ),
    "reasoning but its start": (
        "reason.strip('\\n')",
        "reason[:5]",
        PAIR | {"chosen": [assistant("In a jar.", reasoning_content="Damp spoils it.")]},
        "a part of the reasoning of this answer",
    ),
}


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """The pair that a row becomes with this chat template."""
    folder = tmp_path_factory.mktemp("qwen3")
    write_family(folder, FAMILIES["qwen3"])

    def get(template, row, **options):
        (folder / "own.jinja").write_text(template)
        model = ModelConfig(str(folder), None, str(folder / "own.jinja"), options)
        tokenizer = load_tokenizer(folder, model)
        pair = RowTokenizer(tokenizer, 1024).pair(to_preference(row, WHERE))
        return tokenizer.decode(pair.prompt.tolist()), tokenizer.decode(pair.chosen.tolist())

    return get


@cases(LEAVES_OUT)
def test_a_template_that_leaves_out_a_part_of_a_row_refuses_it(case, scored):
    old, new, row, what = case
    thinks = {"enable_thinking": True} if "reason" in new else {}
    scored(QWEN3, row, **thinks)
    assert QWEN3.count(old)
    with pytest.raises(DpoError) as caught:
        scored(QWEN3.replace(old, new), row, **thinks)
    assert_told(caught.value, WHERE, what, code="template-leaves-out")
    assert what.startswith("a part of") == ("a part of" in caught.value.what)


CHANGES = {
    "a flag that it takes out of the system turn": (
        "{{- '<|im_start|>system\\n' + messages[0].content",
        "{{- '<|im_start|>system\\n' + messages[0].content.replace('/no_think', '').strip()",
        TURNED | {"prompt": [{"role": "system", "content": "Be kind. /no_think"}, *TURNED["prompt"][1:]]},
        "Be kind.<|im_end|>",
    ),
    "texts of tools as JSON": (
        "<tool_response>\\n' + m.content",
        "<tool_response>\\n' + m.content | tojson",
        TURNED,
        r'"the \"jar\" on the upper shelf"',
    ),
    "texts escaped for XML": (
        "user\\n' + m.content",
        "user\\n' + m.content | replace('<', '&lt;')",
        PAIR | {"prompt": "Is 1 < 2, or 2 < 1?"},
        "Is 1 &lt; 2, or 2 &lt; 1?",
    ),
    "calls as Python writes them": (PRINTED, "call.function | string", TURNED, "{'q': 'jar', 'n': [1,"),
    "calls argument by argument": (
        PRINTED,
        "call.function.name }}{% for k, v in call.function.arguments | items %}{{ k }}={{ v | tojson }}"
        "{% endfor %}{{ ''",
        TURNED,
        'findq="jar"n=[1, {"deep": true}]',
    ),
    "texts in capitals": (
        "user\\n' + m.content",
        "user\\n' + m.content | upper",
        PAIR | {"prompt": "Where is the flour?"},
        "WHERE IS THE FLOUR?",
    ),
    "tools in its own words": (
        "tool | tojson",
        "tool.function.name }}: {{ tool.function.description }}{% for key, value in "
        "tool.function.parameters.properties | items %}{{ key }} ({{ value.description }}){% endfor %}{{ ''",
        PAIR | TOOLS,
        "find: How to findplace (the room)",
    ),
}


@cases(CHANGES)
def test_a_template_may_write_a_part_in_its_own_way(case, scored):
    old, new, row, seen = case
    assert QWEN3.count(old)
    assert seen in scored(QWEN3.replace(old, new), row)[0]


REASONED = {
    "prompt": [user("Hi"), assistant("<think>\nhm\n</think>\n\nHello."), user("So?")],
    "answer": "Yes.",
}


def test_gen_pairs_says_before_it_samples_that_earlier_reasoning_is_left_out(
    pairs_settings, write_rows, capsys
):
    plain = [{"prompt": f"How {number}?", "answer": "So."} for number in range(3)]
    source = write_rows("own.jsonl", [*plain, REASONED])
    template = f"model.chat_template={TEMPLATES / 'qwen3.jinja'}"
    generate_pairs(load_config(None, [*pairs_settings("qwen3", pairs__source=source), template]))
    said = capsys.readouterr().err
    note = "the chat template leaves the reasoning of earlier turns out of 1 prompt"
    assert re.search(f"{note}\n.*sampled", said, re.DOTALL)
    write_rows("own.jsonl", plain)
    settings = pairs_settings("qwen3", "others", pairs__source=source)
    generate_pairs(load_config(None, [*settings, template]))
    assert "reasoning" not in capsys.readouterr().err


FAULTS = {
    "a reason of its own": (
        "{{ raise_exception('This model only supports single tool-calls at once!') }}",
        "This model only supports single tool-calls at once!",
        "change the row",
    ),
    "roles": (
        "{{ raise_exception('Conversation roles must alternate') }}",
        "Conversation roles must alternate",
        "check the order of roles",
    ),
    "recursion": (
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "maximum recursion depth exceeded",
        "set another model.chat_template, or remove the row",
    ),
    "include": (
        "{% include 'other' %}",
        "no loader for this environment specified",
        "set another model.chat_template, or remove the row",
    ),
}


@cases(FAULTS)
def test_the_remedy_for_a_template_that_fails_is_that_of_its_reason(case, scored):
    fault, reason, remedy = case
    template = "{% if 'Which' in messages[0].content %}" + fault + "{% endif %}" + QWEN3
    scored(template, PAIR)
    with pytest.raises(DpoError) as caught:
        scored(template, PAIR | {"prompt": "Which?"})
    assert_told(caught.value, WHERE, reason, remedy, "template-refuses")


UNUSABLE = {
    "an empty template": (
        " \n",
        "the chat template is empty",
        "set model.chat_template to chatml",
    ),
    "one that is no template": (
        "{% if %}",
        "Expected an expression, got 'end of statement block' (line 1)",
        "set another model.chat_template",
    ),
    "one that prints nothing": (
        "{# nothing #}",
        "the chat template changes this answer",
        "set model.chat_template to a template that prints every turn",
    ),
}


@cases(UNUSABLE)
def test_a_template_that_no_row_can_be_rendered_with_is_named_with_its_remedy(case, scored):
    template, what, remedy = case
    with pytest.raises(DpoError) as caught:
        scored(template, PAIR)
    assert what in caught.value.what and remedy in caught.value.hint


def test_of_several_templates_without_a_default_one_is_to_be_named(tmp_path):
    write_family(tmp_path, FAMILIES["qwen3"])
    file = tmp_path / "tokenizer_config.json"
    named = [{"name": name, "template": QWEN3} for name in ("plain", "rag")]
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": named}))
    with pytest.raises(DpoError) as caught:
        RowTokenizer(load_tokenizer(tmp_path, ModelConfig(str(tmp_path))), 256)
    told = caught.value
    assert_told(
        told, str(tmp_path), "several chat templates", "set model.chat_template to plain, or rag", told.code
    )
    own = load_tokenizer(tmp_path, ModelConfig(str(tmp_path), chat_template="rag"))
    assert RowTokenizer(own, 256).pair(to_preference(PAIR, WHERE))
