"""Texts that a model writes without a prompt: a question as a user would ask it, and the answer."""

import itertools
from typing import Any, NamedTuple

import mlx.nn as nn
import numpy as np

from ..data.chat_template import render
from ..data.conversation_tokens import end_of_turn
from ..errors import DpoError
from .generate import GenerateConfig, generate_answers

_PLACE = "\ue000"
"""A private-use character: its place in the rendered template is where the user's words go."""
_QUESTION, _ANSWER = 48, 64
"""Most tokens of a question and of an answer: a few dozen show what a model knows of language."""
_BATCH = 8
"""Texts sampled at the same time."""


class OwnText(NamedTuple):
    """Tokens int32 (n,). The model drew those from `start` on, except the marks between turns."""

    tokens: np.ndarray
    start: int


def own_texts(model: nn.Module, tokenizer: Any, count: int, seed: int) -> list[OwnText]:
    """At most `count` texts, drawn at temperature 1 from all tokens; empty questions are left out.

    A chat model gets its template up to the user's first word and continues it with a question (Xu et al.
    2024, Magpie, arXiv:2406.08464); the question, up to the first template mark, is then answered. A model
    without a template continues from the beginning of a text.
    """
    if not tokenizer.has_chat_template:
        begin = [tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id]
        drawn = _drawn(model, tokenizer, [begin] * count, _QUESTION + _ANSWER, seed)
        return [OwnText(np.array(begin + ids, np.int32), 1) for ids, _ in drawn if ids]
    begin, between = around_question(tokenizer)
    marks = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    questions = [
        list(itertools.takewhile(lambda token: token not in marks, ids))
        for ids, _ in _drawn(model, tokenizer, [begin] * count, _QUESTION, seed)
    ]
    prompts = [begin + question + between for question in questions if question]
    answers = _drawn(model, tokenizer, prompts, _ANSWER, seed + 1)
    end = end_of_turn(tokenizer)
    return [
        OwnText(np.array(prompt + ids + ([] if cut else [end]), np.int32), len(begin))
        for prompt, (ids, cut) in zip(prompts, answers, strict=True)
    ]


def longest_text(tokenizer: Any) -> OwnText:
    """A meaningless text, as long as the longest that `own_texts` can make."""
    begin, between = around_question(tokenizer) if tokenizer.has_chat_template else ([0], [])
    return OwnText(np.zeros(len(begin) + _QUESTION + len(between) + _ANSWER + 1, np.int32), len(begin))


def around_question(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Tokens of the chat template before the user's words, and between them and the answer.

    Raises:
        DpoError: the template does not show the user's words.
    """
    text = render(tokenizer, [{"role": "user", "content": _PLACE}], generation_prompt=True)
    before, place, after = text.partition(_PLACE)
    if not place:
        raise DpoError(
            "the chat template leaves out the user's words",
            where=tokenizer.name_or_path,
            hint="use a tokenizer with a complete chat template, or set training.rehearsal=0",
        )
    before, after = (tokenizer.encode(part, add_special_tokens=False) for part in (before, after))
    return before, after


def _drawn(
    model: nn.Module, tokenizer: Any, prompts: list[list[int]], most: int, seed: int
) -> list[tuple[list[int], bool]]:
    """For each prompt: token ids, and whether they were cut off."""
    config = GenerateConfig(most, temperature=1.0, top_p=1.0, batch_size=_BATCH, seed=seed)
    return [(a.ids, a.capped) for a in sorted(generate_answers(model, tokenizer, prompts, config))]
