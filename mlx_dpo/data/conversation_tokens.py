"""Conversations to tokens: the prompt, and the answer up to its one end-of-turn.

answer_after_prompt.py finds where the answer begins, and refuses templates that change the prompt.
"""

import re
from collections.abc import Sequence
from typing import Any

from ..errors import DpoError
from ..records import Answer, Message, Tools, answer_of
from .answer_after_prompt import check_prompt_rendered, continuation
from .chat_template import limited_time, render

_CHARACTERS = 64
"""Characters of a long text that are tokenised for each wanted token: few tokens have more."""

_MARK = re.compile(r"<[|/\w][^<>\s]*>|\[/?[A-Z_]+\]")


def prompt_tokens(tokenizer: Any, prompt: Sequence[Message], tools: Tools = ()) -> list[int]:
    """Token ids of the prompt as the model sees it when it is asked to answer."""
    with limited_time(tokenizer, len(prompt)):
        text = _prompt(tokenizer, prompt, tools)
    return tokenizer.encode(text, add_special_tokens=not tokenizer.has_chat_template)


def _prompt(tokenizer: Any, prompt: Sequence[Message], tools: Tools) -> str:
    text = render(tokenizer, prompt, generation_prompt=True, tools=tools)
    check_prompt_rendered(tokenizer, prompt, text, tools)
    return text


def completion_tokens(
    tokenizer: Any, prompt: Sequence[Message], answer: str, end: int, *, cut: bool = False
) -> list[int]:
    """Token ids of an answer that is text alone, as `pair_tokens` makes them."""
    return pair_tokens(tokenizer, prompt, [answer_of(answer, cut=cut)], end)[1][0]


def pair_tokens(
    tokenizer: Any,
    prompt: Sequence[Message],
    answers: Sequence[Answer],
    end: int,
    tools: Tools = (),
    limit: int | None = None,
) -> tuple[list[int], list[list[int]]]:
    """Token ids of a prompt, as `prompt_tokens`, and of its answers, each with one end-of-turn at its end.

    The tokens of an answer are those that follow the prompt in the tokens of the whole conversation. If the
    tokenizer merges across that border, the answer is tokenised by itself instead: sampling continues the
    prompt's tokens as they are, so prompt + completion always starts with exactly `prompt_tokens`. An answer
    that was cut off has no end-of-turn.

    Args:
        end: the end-of-turn token, from `end_of_turn`.
        limit: most tokens of prompt and answer that are wanted. Of a far longer answer only the start is
            tokenised; after a prompt that leaves no room, nothing.

    Raises:
        DpoError: the template changes the prompt when an answer follows, or leaves out a part of the row.
    """
    with limited_time(tokenizer, len(prompt)):
        before = _prompt(tokenizer, prompt, tools)
        rendered = [continuation(tokenizer, prompt, before, answer, tools) for answer in answers]
    tokens = tokenizer.encode(before, add_special_tokens=not tokenizer.has_chat_template)
    if limit is not None and len(tokens) + 2 > limit:
        return tokens, [[] for _ in answers]
    plain = tokens if tokenizer.has_chat_template else tokenizer.encode(before, add_special_tokens=False)
    completions = []
    for answer, (said, tail) in zip(answers, rendered, strict=True):
        if limit is not None and len(said) > _CHARACTERS * limit:
            own = _encode_after(tokenizer, before, plain, said[: _CHARACTERS * limit], "", answer)
            if len(own) > limit:
                completions.append(own)
                continue
        own = _encode_after(tokenizer, before, plain, said, "" if answer.cut else tail, answer)
        if not answer.cut:
            own = own[: own.index(end) + 1] if end in own else [*own, end]
        completions.append(own)
    return tokens, completions


def _encode_after(
    tokenizer: Any, before: str, tokens_before: list[int], said: str, tail: str, answer: Answer
) -> list[int]:
    """Token ids of `said` and `tail` after `before`; an end token spelt out in the answer stays text."""
    text = answer.turn["content"].strip()
    if text and any(tokenizer.decode([e]) in text for e in tokenizer.eos_token_ids):
        opening, found, closing = said.partition(text)
        spelt = [(opening, False), (found, True), (closing + tail, False)]
        return [
            token
            for part, plain in spelt
            for token in tokenizer.encode(part, add_special_tokens=False, split_special_tokens=plain)
        ]
    tokens = tokenizer.encode(before + said + tail, add_special_tokens=False)
    if tokens[: len(tokens_before)] == tokens_before:
        return tokens[len(tokens_before) :]
    return tokenizer.encode(said + tail, add_special_tokens=False)


def end_of_turn(tokenizer: Any) -> int:
    """The token that ends an assistant turn: the first one the template puts after the answer.

    It is added to the end tokens of the tokenizer, so that sampling stops where a training answer ends.

    Raises:
        DpoError: there is no such token, or the template cannot be used, see `check_template`.
    """
    end = tokenizer.eos_token_id
    if tokenizer.has_chat_template:
        _, tail = check_template(tokenizer)
        tokens = tokenizer.encode(tail, add_special_tokens=False)
        # all_special_ids has only the tokens with a name, such as eos; Gemma's <end_of_turn> has none.
        added = tokenizer.added_tokens_decoder.items()
        special = {i for i, token in added if token.special or _MARK.fullmatch(token.content)}
        found = [t for t in tokens if t in special or t in tokenizer.eos_token_ids]
        end = found[0] if found else end
        if not found and (mark := _MARK.search(tail)):
            raise DpoError(
                f"the chat template ends an answer with {mark[0]!r}, which is not a token of this tokenizer",
                where=tokenizer.name_or_path,
                hint="use the tokenizer that belongs to the template, or set another model.chat_template",
            )
    if end is None:
        raise DpoError(
            "the tokenizer has no end-of-turn token",
            where=tokenizer.name_or_path,
            hint="set eos_token in tokenizer_config.json",
        )
    tokenizer.eos_token_ids = {*tokenizer.eos_token_ids, end}
    return end


def check_template(tokenizer: Any) -> tuple[str, str]:
    """What the template puts before and after an answer that follows its generation prompt.

    Raises:
        DpoError: the model would be trained on another prompt than it sees when it is asked.
    """
    prompt, answer = [{"role": "user", "content": "a"}], answer_of("an answer")
    try:
        before = render(tokenizer, prompt, generation_prompt=True)
        said, tail = continuation(tokenizer, prompt, before, answer)
    except DpoError as error:
        hint = error.hint
        if "row" in hint:  # no row of the user is the cause
            hint = "set model.chat_template to a template that prints every turn unchanged and only adds text"
        raise error.instead(where=tokenizer.name_or_path, hint=hint) from None
    opening = said.removesuffix(answer.turn["content"])
    unasked = render(tokenizer, prompt, generation_prompt=False) == before
    if unasked and opening.strip():
        raise DpoError(
            f"the chat template ignores add_generation_prompt: it puts {opening!r} before an answer, but "
            "not at the end of a prompt",
            where=tokenizer.name_or_path,
            hint="set model.chat_template to a template that uses add_generation_prompt, or to chatml",
        )
    return opening, tail
