"""The text that follows a rendered prompt when it is answered; refused if the template changes the prompt."""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..errors import DpoError
from ..records import Answer, Message, Tools
from .chat_template import render
from .template_probes import (
    WORD,
    Place,
    answer_parts,
    breaks,
    end_of_part,
    marked,
    one,
    other_than,
    prompt_parts,
    squeezed,
)

_MARK = r"(?:<((?:\w+:)?(?:think|thinking|thought|reasoning))>|\[(THINK)\])"
_OPENED, _BEGUN = re.compile(rf"{_MARK}\s*$"), re.compile(_MARK)
_PROBE: Message = {"role": "assistant", "content": "an answer"}
_TEMPLATE_HINT = "set model.chat_template to a template that only adds text after the prompt"


class Continuation(NamedTuple):
    """`said`: the scored text up to the end of the answer; `tail`: what the template puts after it."""

    said: str
    tail: str


def reasoning_end(text: str) -> str | None:
    """The mark that closes the reasoning block in which `text` ends; None if it does not end in one."""
    found = _OPENED.search(text)
    if not found:
        return None
    return f"</{found[1]}>" if found[1] else f"[/{found[2]}]"


def continuation(
    tokenizer: Any, prompt: Sequence[Message], before: str, answer: Answer, tools: Tools = ()
) -> Continuation:
    """What the template puts after the rendered prompt when this answer follows.

    Some templates open a reasoning block when the model is asked, but remove it from given answers. Here the
    block stays: it is closed empty, or holds the reasoning of the answer.

    Args:
        before: the prompt, rendered with its generation prompt.

    Raises:
        DpoError: the template changes the prompt when an answer follows, or leaves out a part of the answer.
    """
    text = answer.turn["content"].strip()
    closing = reasoning_end(before)
    if answer.cut and _still_reasons(before, text) and "reasoning_content" not in answer.turn:
        return Continuation(_after_overlap(before, text), "")
    whole = before + answer.turn["content"]
    if tokenizer.has_chat_template:
        whole = render(tokenizer, [*prompt, answer.turn], generation_prompt=False, tools=tools)
    if not whole.startswith(before):
        if closing and "tool_calls" in answer.turn:
            raise _left_out("tool calls, or reasoning before them")
        if closing:
            return Continuation(
                _with_reasoning(before, closing, answer.turn), _tail(tokenizer, prompt, tools)
            )
        raise _changed(before, whole, answer.turn)
    rest = whole[len(before) :]
    _check_answer_rendered(tokenizer, prompt, answer.turn, whole, tools)
    tail = _tail(tokenizer, prompt, tools, rest)
    said = rest.removesuffix(tail)
    if text not in said and squeezed(_after_overlap(before, text)) not in squeezed(said):
        if "tool_calls" in answer.turn:
            raise _left_out("the text next to tool calls")
        raise DpoError(
            "the chat template changes this answer",
            hint="some templates cut answers, for example at </think>; remove the row, or that part of the "
            "answer",
            code="template-changes-answer",
        )
    return Continuation(said.rstrip() if answer.cut else said, tail)


def _still_reasons(before: str, text: str) -> bool:
    """Whether an answer ends inside a reasoning block that the prompt, or the answer itself, opened."""
    begun = _BEGUN.match(text)
    closing = reasoning_end(begun[0]) if begun else reasoning_end(before)
    return closing is not None and closing not in text


def _with_reasoning(before: str, closing: str, turn: Message) -> str:
    text = turn["content"].strip()
    if reasoning := turn.get("reasoning_content"):
        return f"{reasoning}\n{closing}\n\n{text}"
    if closing in text:
        return _after_overlap(before, text)
    return f"\n{closing}\n\n{text}"


def _after_overlap(before: str, text: str) -> str:
    """The text without a reasoning mark with which the prompt already ends."""
    if found := _OPENED.search(before):
        mark = found[0].strip()
        return text.removeprefix(mark).lstrip() if text.startswith(mark) else text
    return text


def _tail(tokenizer: Any, prompt: Sequence[Message], tools: Tools, rest: str | None = None) -> str:
    """What the template puts after an answer; remembered from an earlier answer if `rest` ends with it."""
    if not tokenizer.has_chat_template:
        return ""
    known = getattr(tokenizer, "_answer_tail", None)
    if known is None or (rest is not None and not rest.endswith(known)):
        whole = render(tokenizer, [*prompt, _PROBE], generation_prompt=False, tools=tools)
        known = whole.rpartition(_PROBE["content"])[2]
        tokenizer._answer_tail = known
    return known if rest is None or rest.endswith(known) else ""


def _changed(before: str, whole: str, turn: Message) -> DpoError:
    """What to raise if the conversation with the answer does not begin with the prompt."""
    reasons = "reasoning_content" in turn or "</think>" in turn["content"]
    if reasons and before.rstrip().endswith("</think>"):
        return DpoError(
            "the answer contains reasoning, but prompts are rendered with an empty reasoning block",
            hint="set model.template_options={enable_thinking: true}, or remove the reasoning from the rows",
            code="reasoning-off",
        )
    same = next((i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), len(whole))
    return DpoError(
        "the chat template renders this prompt differently when an answer follows: "
        f"{whole[same : same + 30]!r} instead of {before[same : same + 30]!r}",
        hint=f"the model would be scored on another prompt than it sees when it is asked; {_TEMPLATE_HINT}",
        code="template-changes-prompt",
    )


def _check_answer_rendered(
    tokenizer: Any, prompt: Sequence[Message], turn: Message, whole: str, tools: Tools
) -> None:
    """Check that all reasoning and all tool calls of the answer are rendered."""

    def again(place: Place) -> str:
        answered = [*prompt, answer_parts(turn, place)]
        return render(tokenizer, answered, generation_prompt=False, tools=tools)

    if turn.keys() & {"tool_calls", "reasoning_content"}:
        _check_parts(again, whole)


def check_prompt_rendered(tokenizer: Any, prompt: Sequence[Message], before: str, tools: Tools) -> None:
    """Check that every turn, tool call and tool of a prompt is complete in its rendered text.

    The template may leave out the reasoning of earlier turns, as it does when the model is asked, and the ids
    of calls and the names of tool turns.

    Raises:
        DpoError: the template leaves something out.
    """

    def again(place: Place) -> str:
        messages, own = prompt_parts(prompt, tools, place)
        return render(tokenizer, messages, generation_prompt=True, tools=own)

    if tools or len(prompt) > 1 or squeezed(prompt[0]["content"]) not in squeezed(before):
        _check_parts(again, before)


def _check_parts(again: Callable[[Place], str], text: str) -> None:
    """Check that every part of a conversation is in its rendered text.

    A part is rendered if its own text is printed, and also a word put in its place. If one of the two is not
    printed, the template may still use the part: then the text changes when the part changes.

    Args:
        again: renders the conversation with other parts in the places of its own.
        text: the conversation, rendered as it is.
    """

    def unseen(number: int, other: Any) -> bool:
        try:
            return again(one(number, other)) == text
        except DpoError:  # the template refuses the part, so it uses it
            return False

    words, parts, place = marked()
    try:
        printed = again(place)
    except DpoError:
        printed = ""
    found, seen, place_after = {*WORD.findall(printed)}, squeezed(text), 0
    for number, (word, (part, what)) in enumerate(zip(words, parts, strict=True)):
        if word not in found and unseen(number, other_than(part)):
            raise _left_out(what)
        if isinstance(part, str) and part.strip():
            after = end_of_part(part, seen, place_after) or end_of_part(part, seen)
            place_after = after or place_after
            for cut in () if after else breaks(part, seen):
                if unseen(number, cut):
                    raise _left_out(f"a part of {what}")


def _left_out(what: str) -> DpoError:
    return DpoError(
        f"the chat template leaves out {what}",
        hint="set model.chat_template to a template that renders it, write it into the content as the model "
        "would, or remove the row",
        code="template-leaves-out",
    )
