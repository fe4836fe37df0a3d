"""Rows of every kind on templates of every kind: all of a row is scored, or the row is refused."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from mlx_dpo.config import load_config
from mlx_dpo.data.own_format import to_answer, to_preference
from mlx_dpo.data.tokenize import RowTokenizer, tokenize_pairs
from mlx_dpo.errors import DpoError
from mlx_dpo.export.fuse import fuse_run
from mlx_dpo.jobs.gen_pairs import generate_pairs
from mlx_dpo.jobs.generate_commands import ask_run
from mlx_dpo.jobs.inspect import inspect_pairs
from mlx_dpo.jobs.open_run import open_run
from mlx_dpo.jobs.train import train_run
from mlx_dpo.models.load import ModelConfig, load_tokenizer
from mlx_dpo.settings import save_settings
from mlx_dpo.training.mask_check import check_masks

from ..conftest import some
from ..support.families import FAMILIES, TEMPLATES, write_family
from ..support.mistakes import assert_told

CALL = {"type": "function", "function": {"name": "find", "arguments": {"q": "flour"}}}
TOOL = {"type": "function", "function": {"name": "find", "parameters": {}}}
PLAIN = {"prompt": "Where?", "chosen": "In a jar.", "rejected": "No."}
REASONED = "<think>\nDamp spoils it.\n</think>\n\nIn a jar."


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


ROWS = {
    "plain": PLAIN,
    "text and tool call": PLAIN | {"chosen": [assistant("Let me look.", tool_calls=[CALL])]},
    "tool call": PLAIN | {"chosen": [assistant(None, tool_calls=[CALL])]},
    "tool turn": PLAIN
    | {
        "prompt": [
            user("Where?"),
            assistant(None, tool_calls=[CALL]),
            {"role": "tool", "content": "the jar", "name": "find"},
        ]
    },
    "tools": PLAIN | {"tools": [TOOL]},
    "reasoning field": PLAIN | {"chosen": [assistant("In a jar.", reasoning_content="Damp spoils it.")]},
    "reasoning block": PLAIN | {"chosen": REASONED},
    "reasoning begun in the prompt": PLAIN | {"chosen": REASONED.removeprefix("<think>\n")},
    "earlier reasoning": PLAIN
    | {"prompt": [user("Hi"), assistant("<think>\nhm\n</think>\n\nHello."), user("So?")]},
    "text parts": PLAIN
    | {"prompt": [user([{"type": "text", "text": "Whe"}, {"type": "text", "text": "re?"}])]},
    "system": PLAIN | {"system": "Be kind."},
    "cut off": PLAIN | {"chosen": "In a ja", "chosen_cut": True},
}
SCORED = {
    "qwen3": {
        "plain": "In a jar.<|im_end|>",
        "text and tool call": 'Let me look.\n<tool_call>\n{"name": "find", "arguments": {"q": "flour"}}\n'
        "</tool_call><|im_end|>",
        "tool call": '\n<tool_call>\n{"name": "find", "arguments": {"q": "flour"}}\n</tool_call><|im_end|>',
        "reasoning field": "the answer contains reasoning, but prompts",
        "reasoning block": "the answer contains reasoning, but prompts",
        "cut off": "In a ja",
    },
    "granite4": {
        "plain": "In a jar.<|end_of_text|>",
        "tool call": '<tool_call>\n{"name": "find", "arguments": {"q": "flour"}}\n'
        "</tool_call><|end_of_text|>",
        "reasoning field": "the chat template leaves out the reasoning of this answer",
        "reasoning block": REASONED + "<|end_of_text|>",
        "cut off": "In a ja",
    },
    "llama31": {
        "plain": "In a jar.<|eot_id|>",
        "text and tool call": "the chat template leaves out the text next to tool calls",
        "tool call": '{"name": "find", "parameters": {"q": "flour"}}<|eot_id|>',
        "reasoning field": "the chat template leaves out the reasoning of this answer",
        "cut off": "In a ja",
    },
    "gemma": {
        "plain": "In a jar.<end_of_turn>",
        "tool call": "the chat template leaves out the tool calls of this answer",
        "tool turn": "the chat template leaves out the tool calls of turn 2",
        "tools": "the chat template leaves out 'tools'",
        "system": "the chat template refuses this conversation: System role not supported",
    },
    "thinking": {
        "plain": "\n</think>\n\nIn a jar.<|im_end|>",
        "reasoning field": "Damp spoils it.\n</think>\n\nIn a jar.<|im_end|>",
        "reasoning block": "Damp spoils it.\n</think>\n\nIn a jar.<|im_end|>",
        "reasoning begun in the prompt": "Damp spoils it.\n</think>\n\nIn a jar.<|im_end|>",
        "cut off": "In a ja",
    },
    "r1": {
        "plain": "\n</think>\n\nIn a jar.<|eot_id|>",
        "tool call": "the chat template leaves out tool calls, or reasoning before them",
        "tools": "the chat template leaves out 'tools'",
        "reasoning field": "Damp spoils it.\n</think>\n\nIn a jar.<|eot_id|>",
        "reasoning block": "Damp spoils it.\n</think>\n\nIn a jar.<|eot_id|>",
        "reasoning begun in the prompt": "Damp spoils it.\n</think>\n\nIn a jar.<|eot_id|>",
        "cut off": "In a ja",
    },
}
"""The chosen answer's tokens as text, or why the row is refused."""
HELD = {
    "text and tool call": ("", "Let me look. find flour"),
    "tool call": ("", "find flour"),
    "tool turn": ("find flour the jar", ""),
    "tools": ("find parameters", ""),
    "reasoning field": ("", "Damp spoils it. </think>"),
    "reasoning block": ("", "Damp spoils it. </think>"),
    "reasoning begun in the prompt": ("", "Damp spoils it. </think>"),
    "earlier reasoning": ("Hi Hello. So?", ""),
    "text parts": ("Where?", ""),
    "system": ("Be kind.", ""),
}
"""Words that must be in the rendered prompt and in what is scored."""


@pytest.fixture(scope="module")
def tokenizer_of(tmp_path_factory):
    """`get(family, options)`."""
    root = tmp_path_factory.mktemp("families")

    def get(family, **options):
        folder = root / family
        if not folder.exists():
            folder.mkdir()
            write_family(folder, FAMILIES[family])
        return load_tokenizer(folder, ModelConfig(str(folder), template_options=options))

    return get


def scored(tokenizer, row, to_record=to_preference):
    """The prompt and the chosen answer as text, checked as a run checks them; or why the row is refused."""
    work = RowTokenizer(tokenizer, 512, answers=to_record is to_answer)
    record = to_record(row, "rows.jsonl:1")
    try:
        pair = work.pair(record)
    except DpoError as error:
        assert error.where == "rows.jsonl:1" and error.hint
        return error.what, ""
    check_masks([record], [pair], tokenizer, 512)
    return tuple(tokenizer.decode(tokens.tolist()) for tokens in (pair.prompt, pair.chosen))


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("family", FAMILIES)
def test_all_of_a_row_is_rendered_and_scored_or_the_row_is_refused(tokenizer_of, family, kind):
    prompt, answer = scored(tokenizer_of(family), ROWS[kind])
    if kind in SCORED[family]:
        told = SCORED[family][kind]
        assert answer == told or prompt.startswith(told)
    if answer:
        asked, said = HELD.get(kind, ("", ""))
        assert [word for word in asked.split() if word not in prompt] == []
        assert [word for word in said.split() if word not in prompt[-20:] + answer] == []


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("family", FAMILIES)
def test_sft_scores_of_a_row_what_train_scores_of_its_chosen_answer(tokenizer_of, family, kind):
    tokenizer, row = tokenizer_of(family), ROWS[kind]
    assert scored(tokenizer, row, to_answer) == scored(tokenizer, row)
    if isinstance(row["chosen"], str) and "chosen_cut" not in row:
        curated = {name: value for name, value in row.items() if name not in ("chosen", "rejected")}
        assert scored(tokenizer, {**curated, "answer": row["chosen"]}, to_answer) == scored(tokenizer, row)


@pytest.mark.parametrize("kind", ROWS)
def test_a_model_that_may_reason_is_trained_to_reason_where_the_answers_do(tokenizer_of, kind):
    prompt, answer = scored(tokenizer_of("qwen3", enable_thinking=True), ROWS[kind])
    assert prompt.endswith("<|im_start|>assistant\n")
    reasoning = "Damp spoils it." if kind.startswith("reasoning") else ""
    assert answer.startswith(f"<think>\n{reasoning}\n</think>\n\n")


def test_reasoning_of_earlier_turns_that_a_template_leaves_out_is_counted(tokenizer_of):
    said = {}
    for family in ("qwen3", "granite4"):
        work = RowTokenizer(tokenizer_of(family), 512)
        work.pair(to_preference(ROWS["earlier reasoning"], "rows.jsonl:1"))
        said[family] = str(work.counts())
    left_out = ", 1 without the reasoning of earlier turns (the template leaves it out)"
    assert said == {"qwen3": f"1 pair: 1 kept{left_out}", "granite4": "1 pair: 1 kept"}


def test_a_date_of_the_settings_stands_in_place_of_today(tokenizer_of):
    prompts = [scored(tokenizer_of("llama31", date=day), PLAIN)[0] for day in ("2024-07-26", "2025-01-02")]
    assert "Today Date: 26 Jul 2024" in prompts[0] and "Today Date: 02 Jan 2025" in prompts[1]


def test_a_template_of_the_settings_takes_the_place_of_the_models_own(tokenizer_of, tmp_path, write_rows):
    own = tokenizer_of("qwen3")
    file = tmp_path / "mine.jinja"
    file.write_text(FAMILIES["qwen3"].template.replace("user\\n", "person\\n"))
    settings = [
        f"model.path={own.name_or_path}",
        f"data.train={write_rows('rows.jsonl', [PLAIN])}",
        "data.valid=null",
        f"model.chat_template={file}",
    ]
    found = inspect_pairs(load_config(None, settings), ask_model=False)
    assert found.shown[0].prompt.startswith("<|im_start|>person\nWhere?")
    chatml = inspect_pairs(load_config(None, [*settings, "model.chat_template=chatml"]), ask_model=False)
    assert chatml.shown[0].prompt == "<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n"


REASONING = {"thinking": "qwen3", "r1": "llama"}


def template_of(family):
    """A family's template for a model with the same special tokens."""
    return f"model.chat_template={TEMPLATES / f'{family}.jinja'}"


@pytest.mark.parametrize("family", REASONING)
def test_a_model_that_reasons_makes_pairs_and_trains_on_them(family, pairs_settings, configure, tmp_path):
    """Its own answers are cut off while they reason; the curated ones have an empty reasoning block."""
    model = REASONING[family]
    generate_pairs(load_config(None, [*pairs_settings(model, pairs__limit=6), template_of(family)]))
    made = tmp_path / "pairs" / "train.jsonl"
    tokenizer = load_tokenizer(Path(configure(model).model.path), configure(model, template_of(family)).model)
    rows = [to_preference(json.loads(line), "made") for line in made.read_text().splitlines()]
    pairs, _ = tokenize_pairs(rows, tokenizer, 256)
    for row, pair in zip(rows, pairs, strict=True):
        assert tokenizer.decode(pair.prompt.tolist()).endswith("<think>\n")
        assert tokenizer.decode(pair.chosen.tolist()).startswith("\n</think>\n\n")
        assert row.rejected_cut and tokenizer.decode(pair.rejected.tolist()) == row.rejected
    data = (f"data.train={made}", "data.valid=null", "data.max_length=256")
    config = configure(model, template_of(family), *data)
    folder = train_run(config).folder
    assert (folder / "chat_template.jinja").read_text() == tokenizer.chat_template
    asked = open_run(folder).model
    fused = fuse_run(config.model.path, folder, tmp_path / "fused", asked)
    assert load_tokenizer(fused).chat_template == tokenizer.chat_template
    assert "so fuse it first: mlx-dpo fuse --run" in ask_run(folder)
    train_run(replace(config, model=replace(config.model, chat_template=None)), overwrite=True)
    assert open_run(folder).model.chat_template is None


@pytest.mark.parametrize("options", [{}, {"enable_thinking": True}], ids=["may not reason", "may reason"])
def test_reasoning_that_was_cut_off_is_scored_as_it_was_said(tokenizer_of, options):
    said = "<think>\nOkay, the us"
    _, answer = scored(tokenizer_of("qwen3", **options), PLAIN | {"chosen": said, "chosen_cut": True})
    assert answer == said


def test_an_option_that_the_template_does_not_look_at_is_refused(tokenizer_of):
    with pytest.raises(DpoError) as caught:
        tokenizer_of("qwen3", thinking=True)
    assert_told(caught.value, "model.template_options", "thinking", "chat_template")


def test_tools_of_the_settings_are_written_and_read_again(tmp_path):
    tool = {
        "type": "function",
        "function": {"name": "f", "parameters": {"properties": {"city": {"type": "string"}}}},
    }
    config = load_config(None, [f"model.template_options.tools={json.dumps([tool])}"])
    save_settings(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


def test_a_template_that_takes_arguments_as_text_gets_them(models):
    file = TEMPLATES / "deepseek.jinja"
    base = models("llama")
    tokenizer = load_tokenizer(base, ModelConfig(str(base), chat_template=str(file)))
    assert scored(tokenizer, ROWS["tool call"])[1] == 'find\n{"q": "flour"}<|eot_id|>'
    answer = scored(tokenizer, ROWS["text and tool call"])[1]
    assert answer == 'Let me look.find\n{"q": "flour"}<|eot_id|>'


LEAVES_OUT = FAMILIES["granite4"].template.replace("m.tool_calls or []", "[]")


def test_a_call_of_an_earlier_turn_is_missed_although_the_tools_name_it(models, tmp_path):
    file = tmp_path / "own.jinja"
    file.write_text(LEAVES_OUT)
    base = models("granite")
    tokenizer = load_tokenizer(base, ModelConfig(str(base), chat_template=str(file)))
    row = ROWS["tool turn"] | {"tools": [TOOL]}
    assert scored(tokenizer, row)[0] == "the chat template leaves out the tool calls of turn 2"


IGNORES = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content + '<|eot_id|>' }}{% endfor %}"
)
ENDLESS = "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}"
UNKNOWN_END = (
    "{% for m in messages %}{{ '<|turn|>' + m.role + '\n' + m.content + '<|end_of_turn|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn|>assistant\n' }}{% endif %}"
)
UNUSABLE = {
    "it ignores add_generation_prompt": (
        IGNORES,
        r"ignores add_generation_prompt: it puts '<|start_header_id|>assistant<|end_header_id|>\n\n' before",
        "or to chatml",
        "",
    ),
    "it does not end": (
        ENDLESS,
        "3 s",
        "set another model.chat_template",
        "template-endless",
    ),
    "its end is no token": (
        UNKNOWN_END,
        "'<|end_of_turn|>', which is not a token",
        "set another model.chat_template",
        "",
    ),
}


COMMANDS = ("gen-pairs --source rows.jsonl", "inspect --data rows.jsonl", "train")
QUICK = [case for case in product(UNUSABLE, COMMANDS) if case[0] != "it does not end"]


@pytest.mark.parametrize(
    ("why", "command"), some(product(UNUSABLE, COMMANDS), *QUICK, ("it does not end", "train"))
)
def test_a_template_that_cannot_be_used_is_refused_by_every_command(
    why, command, refused_at, models, tmp_path
):
    template, what, remedy, code = UNUSABLE[why]
    (tmp_path / "rows.jsonl").write_text(json.dumps(PLAIN) + "\n")
    (tmp_path / "own.jinja").write_text(template)
    command += f" --model {models('llama')} --set model.chat_template=own.jinja --set data.train=rows.jsonl"
    refused_at(f"{command} --set data.valid=null", str(models("llama")), what, remedy, code)
