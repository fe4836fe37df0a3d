"""The chat template: rendered prompt, and the tokens of the answer up to its one end-of-turn."""

import hashlib
from collections.abc import Sequence
from typing import Any

from ..errors import DpoError, first_line
from ..records import Message

TEMPLATE_OPTIONS = {"enable_thinking": False}
"""Prompts are rendered without a reasoning block, the same way for sampling, training and evaluation."""


def render(tokenizer: Any, messages: Sequence[Message], *, generation_prompt: bool) -> str:
    """The conversation as text; a tokenizer without a template joins the contents by blank lines.

    Raises:
        DpoError: the template refuses the conversation.
    """
    if not tokenizer.has_chat_template:
        return "\n\n".join(m["content"] for m in messages) + ("\n\n" if generation_prompt else "")
    try:
        return tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=generation_prompt, **TEMPLATE_OPTIONS
        )
    except Exception as error:  # templates are code of the model's author and may raise anything
        raise DpoError(
            f"the chat template refuses this conversation: {first_line(error)}",
            where=tokenizer.name_or_path,
            hint="check the order of roles; some templates know no system turn",
        ) from None


def prompt_tokens(tokenizer: Any, prompt: Sequence[Message]) -> list[int]:
    """Token ids of the prompt as the model sees it when it is asked to answer."""
    text = render(tokenizer, prompt, generation_prompt=True)
    return tokenizer.encode(text, add_special_tokens=not tokenizer.has_chat_template)


def completion_tokens(
    tokenizer: Any, prompt: Sequence[Message], answer: str, end: int, *, cut: bool = False
) -> list[int]:
    """Token ids of the answer and one end-of-turn, nothing after it.

    They are what follows the prompt's tokens in the tokens of the whole conversation. Where a tokenizer
    merges across that border, the answer is tokenised on its own instead: sampling continues the prompt's
    tokens as they are, so prompt + completion always starts with exactly `prompt_tokens`.

    Args:
        end: the end-of-turn token, from `end_of_turn`.
        cut: the answer was cut off: its tokens end with its text, without an end-of-turn.

    Raises:
        DpoError: the template changes the prompt when an answer follows.
    """
    return pair_tokens(tokenizer, prompt, [(answer, cut)], end)[1][0]


def pair_tokens(
    tokenizer: Any, prompt: Sequence[Message], answers: Sequence[tuple[str, bool]], end: int
) -> tuple[list[int], list[list[int]]]:
    """Token ids of a prompt, as `prompt_tokens`, and of its answers, as `completion_tokens`.

    `answers` holds each answer's text and whether it was cut off. The prompt is rendered and tokenised once:
    most of the work where there are many pairs.
    """
    before = render(tokenizer, prompt, generation_prompt=True)
    tokens = tokenizer.encode(before, add_special_tokens=not tokenizer.has_chat_template)
    plain = tokens if tokenizer.has_chat_template else tokenizer.encode(before, add_special_tokens=False)
    return tokens, [_completion(tokenizer, prompt, before, plain, *answer, end) for answer in answers]


def _completion(
    tokenizer: Any,
    prompt: Sequence[Message],
    before: str,
    tokens_before: list[int],
    answer: str,
    cut: bool,
    end: int,
) -> list[int]:
    if tokenizer.has_chat_template:
        turn = {"role": "assistant", "content": answer}
        whole = render(tokenizer, [*prompt, turn], generation_prompt=False)
    else:
        whole = before + answer
    if not whole.startswith(before):
        raise DpoError(
            "the chat template renders this prompt differently once an answer follows",
            hint="the model could not be scored on what it would see; use a template that only appends",
        )
    if answer.strip() not in whole[len(before) :]:
        raise DpoError(
            "the chat template changes this answer",
            hint="some templates cut answers, at </think> for example; remove the row or that part of it",
        )
    if cut:
        opened, said, _ = whole[len(before) :].partition(answer.strip())
        return _encode_after(tokenizer, before, tokens_before, before + opened + said, answer)
    tokens = _encode_after(tokenizer, before, tokens_before, whole, answer)
    return tokens[: tokens.index(end) + 1] if end in tokens else [*tokens, end]


def _encode_after(
    tokenizer: Any, before: str, tokens_before: list[int], whole: str, answer: str
) -> list[int]:
    """Token ids of `whole` after `before`; an end token spelt out in the answer stays plain text."""
    text = whole[len(before) :]
    if any(tokenizer.decode([e]) in answer for e in tokenizer.eos_token_ids):
        parts = text.partition(answer.strip())
        spelt = [(part, place == 1) for place, part in enumerate(parts)]
        return [
            token
            for part, plain in spelt
            for token in tokenizer.encode(part, add_special_tokens=False, split_special_tokens=plain)
        ]
    tokens = tokenizer.encode(whole, add_special_tokens=False)
    if tokens[: len(tokens_before)] == tokens_before:
        return tokens[len(tokens_before) :]
    return tokenizer.encode(text, add_special_tokens=False)


def end_of_turn(tokenizer: Any) -> int:
    """The token that ends an assistant turn: the first one the template puts after the answer.

    It is added to the tokenizer's end tokens, so that sampling stops where training says an answer ends.

    Raises:
        DpoError: there is none.
    """
    end = tokenizer.eos_token_id
    if tokenizer.has_chat_template:
        prompt, answer = [{"role": "user", "content": "a"}], "an answer"
        before = render(tokenizer, prompt, generation_prompt=True)
        turn = {"role": "assistant", "content": answer}
        whole = render(tokenizer, [*prompt, turn], generation_prompt=False)
        tail = tokenizer.encode(whole[len(before) :].rpartition(answer)[2], add_special_tokens=False)
        # all_special_ids has only the tokens with a name, such as eos; Gemma's <end_of_turn> has none.
        special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        found = [t for t in tail if t in special or t in tokenizer.eos_token_ids]
        end = found[0] if found else end
    if end is None:
        raise DpoError(
            "the tokenizer has no end-of-turn token",
            where=tokenizer.name_or_path,
            hint="set eos_token in tokenizer_config.json",
        )
    tokenizer.eos_token_ids = {*tokenizer.eos_token_ids, end}
    return end


def template_hash(tokenizer: Any) -> str:
    """16 hex digits that change when the chat template does, but not with the date some templates print."""
    source = tokenizer.chat_template
    if not isinstance(source, str):
        source = render(tokenizer, [{"role": "user", "content": "a"}], generation_prompt=True)
    return hashlib.sha256(source.encode()).hexdigest()[:16]
