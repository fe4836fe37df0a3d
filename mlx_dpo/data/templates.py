"""The chat template: rendered prompt, and the tokens of the answer up to its one end-of-turn."""

import hashlib
from collections.abc import Sequence
from typing import Any

from ..errors import DpoError
from ..records import Message

# Prompts are rendered without a reasoning block, the same way for sampling, training and evaluation.
_RENDER = {"tokenize": False, "enable_thinking": False}


def render(tokenizer: Any, messages: Sequence[Message], *, generation_prompt: bool) -> str:
    """The conversation as text; a tokenizer without a template joins the contents by blank lines.

    Raises:
        DpoError: the template refuses the conversation.
    """
    if not tokenizer.has_chat_template:
        return "\n\n".join(m["content"] for m in messages) + ("\n\n" if generation_prompt else "")
    try:
        return tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=generation_prompt, **_RENDER
        )
    except Exception as error:  # templates are code of the model's author and may raise anything
        raise DpoError(
            f"the chat template refuses this conversation: {error}",
            hint="check the order of roles; some templates know no system turn",
        ) from None


def prompt_tokens(tokenizer: Any, prompt: Sequence[Message]) -> list[int]:
    """Token ids of the prompt as the model sees it when it is asked to answer."""
    text = render(tokenizer, prompt, generation_prompt=True)
    return tokenizer.encode(text, add_special_tokens=not tokenizer.has_chat_template)


def completion_tokens(tokenizer: Any, prompt: Sequence[Message], answer: str, end: int) -> list[int]:
    """Token ids of the answer and one end-of-turn, nothing after it.

    The answer's part of the rendered conversation is tokenised on its own, because that is what sampling
    continues with: prompt + completion always starts with exactly `prompt_tokens`.

    Args:
        end: the end-of-turn token, from `end_of_turn`.

    Raises:
        DpoError: the template changes the prompt when an answer follows.
    """
    if not tokenizer.has_chat_template:
        return [*tokenizer.encode(answer, add_special_tokens=False), end]
    before = render(tokenizer, prompt, generation_prompt=True)
    whole = render(tokenizer, [*prompt, {"role": "assistant", "content": answer}], generation_prompt=False)
    if not whole.startswith(before):
        raise DpoError(
            "the chat template renders this prompt differently once an answer follows",
            hint="the model could not be scored on what it would see; use a template that only appends",
        )
    tokens = tokenizer.encode(whole[len(before) :], add_special_tokens=False)
    return tokens[: tokens.index(end) + 1] if end in tokens else [*tokens, end]


def end_of_turn(tokenizer: Any) -> int:
    """The token that ends an assistant turn: the first one the template puts after the answer.

    It is added to the tokenizer's end tokens, so that sampling stops where training says an answer ends.

    Raises:
        DpoError: there is none.
    """
    end = tokenizer.eos_token_id
    if tokenizer.has_chat_template:
        prompt = [{"role": "user", "content": "a"}]
        before = render(tokenizer, prompt, generation_prompt=True)
        whole = render(tokenizer, [*prompt, {"role": "assistant", "content": "b"}], generation_prompt=False)
        after = whole[len(before) :].lstrip().removeprefix("b")
        tail = tokenizer.encode(after, add_special_tokens=False)
        special = set(tokenizer.eos_token_ids) | set(tokenizer.all_special_ids)
        found = [t for t in tail if t in special]
        end = found[0] if found else end
    if end is None:
        raise DpoError(
            "the tokenizer has no end-of-turn token",
            hint="set eos_token in tokenizer_config.json",
        )
    tokenizer.eos_token_ids = {*tokenizer.eos_token_ids, end}
    return end


def template_hash(tokenizer: Any) -> str:
    """16 hex digits that change when the rendering of conversations does."""
    rendered = [
        render(tokenizer, [{"role": "user", "content": "a"}], generation_prompt=True),
        str(getattr(tokenizer, "chat_template", None)),
    ]
    return hashlib.sha256("\n".join(rendered).encode()).hexdigest()[:16]
