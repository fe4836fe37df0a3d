"""Text that a model writes of its own accord: a question as its users would ask it, and its answer."""

from typing import Any, NamedTuple

import mlx.nn as nn
import numpy as np

from ..data.templates import end_of_turn, prompt_tokens, render
from .generate import GenerateConfig, generate_answers

_PLACE = "\ue000"
"""A character of private use: where it comes out of the template, the user's words begin."""
_QUESTION, _ANSWER = 48, 64
"""Most tokens of a question and of an answer: what a model knows of language shows in a few dozen."""
_BETWEEN = 16
"""Tokens that a template puts between the two, at most."""
_BATCH = 8
"""Texts sampled at a time: the memory of their prompts stays below that of a step."""


class OwnText(NamedTuple):
    """Tokens int32 (n,), of which the model drew those from `start` on, but for the marks between turns."""

    tokens: np.ndarray
    start: int


def own_texts(model: nn.Module, tokenizer: Any, count: int, seed: int) -> list[OwnText]:
    """At most `count` texts, drawn at temperature 1 from all tokens; empty questions are left out.

    A chat model is given its template up to the user's first word and goes on from there (Xu et al. 2024,
    Magpie, arXiv:2406.08464); its question is rendered and answered. A model without a template goes on from
    the beginning of a text.
    """
    if not tokenizer.has_chat_template:
        begin = [tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id]
        drawn = _drawn(model, tokenizer, [begin] * count, _QUESTION + _ANSWER, seed)
        return [OwnText(np.array(begin + ids, np.int32), 1) for ids, _, _ in drawn if ids]
    begin = opening(tokenizer)
    questions = [text for _, text, _ in _drawn(model, tokenizer, [begin] * count, _QUESTION, seed) if text]
    prompts = [prompt_tokens(tokenizer, [{"role": "user", "content": text}]) for text in questions]
    end, texts = end_of_turn(tokenizer), []
    for prompt, (ids, _, cut) in zip(
        prompts, _drawn(model, tokenizer, prompts, _ANSWER, seed + 1), strict=True
    ):
        start = len(begin) if prompt[: len(begin)] == begin else len(prompt)
        texts.append(OwnText(np.array(prompt + ids + ([] if cut else [end]), np.int32), start))
    return texts


def longest_text(tokenizer: Any) -> OwnText:
    """A text without meaning, as long as any that `own_texts` makes."""
    start = len(opening(tokenizer)) if tokenizer.has_chat_template else 1
    return OwnText(np.zeros(start + _QUESTION + _BETWEEN + _ANSWER, np.int32), start)


def opening(tokenizer: Any) -> list[int]:
    """Tokens of the chat template up to where the user's words begin."""
    text = render(tokenizer, [{"role": "user", "content": _PLACE}], generation_prompt=False)
    return tokenizer.encode(text.split(_PLACE)[0], add_special_tokens=False)


def _drawn(
    model: nn.Module, tokenizer: Any, prompts: list[list[int]], most: int, seed: int
) -> list[tuple[list[int], str, bool]]:
    """For every prompt: token ids, their text, whether they were cut off."""
    config = GenerateConfig(most, temperature=1.0, top_p=1.0, batch_size=_BATCH, seed=seed)
    return [(a.ids, a.text, a.capped) for a in sorted(generate_answers(model, tokenizer, prompts, config))]
