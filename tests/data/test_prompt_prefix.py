"""Prompt and answer rebuild the conversation, also where only one of the two answers reasons first.

huggingface/trl#6433: a template opens a reasoning block when the model is asked, and one answer has no such
block. The prompt that both renderings share was then shortened, and the start of the chosen answer was lost.
"""

import json
from itertools import product

import pytest

from mlx_dpo.data.chat_template import render
from mlx_dpo.data.conversation_tokens import prompt_tokens
from mlx_dpo.data.messages import message_text
from mlx_dpo.data.sources import read_pairs
from mlx_dpo.data.tokenize import RowTokenizer
from mlx_dpo.errors import DpoError
from mlx_dpo.models.load import ModelConfig, load_tokenizer

from ..support.families import FAMILIES, QWEN3, write_family
from ..support.mistakes import lines
from .thinking_rows import ANSWER_KINDS, PROMPT_KINDS, THINKING

OPENS_THINK = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
TEMPLATES = {
    "opens think": (QWEN3._replace(template=OPENS_THINK), {}),
    **{name: (form, {}) for name, form in FAMILIES.items()},
    "qwen3 that reasons": (QWEN3, {"enable_thinking": True}),
}
REFUSED = {"template-leaves-out", "template-refuses", "reasoning-off", "template-changes-answer"}


@pytest.fixture(scope="module")
def tokenizer_of(tmp_path_factory):
    """The tokenizer of a template in TEMPLATES."""
    root, made = tmp_path_factory.mktemp("templates"), {}

    def get(name):
        if name not in made:
            form, options = TEMPLATES[name]
            folder = root / name.replace(" ", "-")
            folder.mkdir()
            write_family(folder, form)
            made[name] = load_tokenizer(folder, ModelConfig(str(folder), template_options=options))
        return made[name]

    return get


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """All rows of THINKING, read from a file."""
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    file.write_text(lines(*THINKING.values()))
    return dict(zip(THINKING, read_pairs(file), strict=True))


def test_there_is_a_row_of_every_prompt_with_every_two_answers():
    assert THINKING.keys() == {
        (asked, *both)
        for asked in PROMPT_KINDS
        for both in product(ANSWER_KINDS, repeat=2)
        if len({*both}) > 1
    }


@pytest.mark.parametrize("asked", PROMPT_KINDS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_prompt_and_answer_rebuild_the_conversation(template, asked, tokenizer_of, pairs):
    """Both answers follow the very tokens that the model is asked with, and lose nothing at their start."""
    tokenizer, scored = tokenizer_of(template), 0
    for (kind, *both), row in pairs.items():
        if kind != asked:
            continue
        try:
            pair = RowTokenizer(tokenizer, 512).pair(row)
        except DpoError as error:
            assert error.code in REFUSED, error
            continue
        if pair is None:  # the same answer, written in two ways
            assert all(kind.startswith("reasoned") for kind in both)
            continue
        scored += 1
        assert pair.prompt.tolist() == prompt_tokens(tokenizer, row.prompt, row.tools)
        before = tokenizer.decode(pair.prompt.tolist())
        for answer, tokens in zip(row.answers, (pair.chosen, pair.rejected), strict=True):
            whole = before + tokenizer.decode(tokens.tolist())
            said = whole[len(before.rstrip().removesuffix("<think>").rstrip()) :]
            assert in_order(message_text(answer.turn), said), (said, answer.turn)
            rendered = render(tokenizer, [*row.prompt, answer.turn], generation_prompt=False, tools=row.tools)
            if rendered.startswith(before):
                assert rendered.startswith(whole)
    assert bool(scored) == ((template, asked) not in NEVER)


NEVER = {
    *product(["gemma", "r1", "opens think"], ["tools"]),
    ("gemma", "system"),
}
"""Prompts that a template cannot render."""


def in_order(text, said):
    """Whether all words of a text are in what was said, in their order; the marks of calls are not words."""
    place = 0
    for word in text.replace('{"name": "find", "arguments": {"q": "flour"}}', "find flour").split():
        place = said.find(word, place) + len(word)
        if place < len(word):
            return False
    return True


def test_a_think_block_in_one_answer_alone_is_scored_by_hand(tokenizer_of, pairs):
    tokenizer = tokenizer_of("opens think")
    for (name, other), (chosen, rejected) in {
        ("reasoned", "plain"): ("Damp spoils it.\n</think>\n\nIn a jar.", "\n</think>\n\nNo."),
        ("plain", "reasoned"): ("\n</think>\n\nNo.", "Damp spoils it.\n</think>\n\nIn a jar."),
    }.items():
        pair = RowTokenizer(tokenizer, 512).pair(pairs["one turn", name, other])
        prompt, *answers = (
            tokenizer.decode(part.tolist()) for part in (pair.prompt, pair.chosen, pair.rejected)
        )
        assert prompt == "<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n<think>\n"
        assert answers == [f"{chosen}<|im_end|>", f"{rejected}<|im_end|>"]


def test_whole_conversations_with_one_think_block_give_the_same_pairs(pairs, tmp_path):
    """TRL's implicit prompt: the turns that both share are the prompt, and no part of an answer is."""
    whole = [
        {
            "id": json.dumps(name),
            "tools": row.get("tools"),
            **{key: row["prompt"] + row[key] for key in ("chosen", "rejected")},
        }
        for name, row in THINKING.items()
    ]
    (tmp_path / "rows.jsonl").write_text(lines(*whole))
    for found, row in zip(read_pairs(tmp_path / "rows.jsonl"), pairs.values(), strict=True):
        assert (found.prompt, found.answers, found.tools) == (row.prompt, row.answers, row.tools)
