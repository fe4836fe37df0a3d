"""The parts of a conversation that a template must print, and what replaces them to check that it does."""

import itertools
import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..records import Message, Tools

Place = Callable[[Any, str], Any]
"""What replaces a part: a function of the part's value and its name for people."""


WORD = re.compile(r"zq\d+qz")
"""A word that replaces a part, and that no text contains."""


def prompt_parts(
    messages: Sequence[Message], tools: Tools, place: Place
) -> tuple[list[Message], tuple[dict[str, Any], ...]]:
    """A prompt with every part replaced by `place`: texts of turns, tool calls, descriptions of tools.

    In an assistant's text, the part is what follows the reasoning.
    """
    turns = []
    for number, turn in enumerate(messages, 1):
        reasoning, closed, text = turn["content"].rpartition("</think>")
        if turn["role"] != "assistant":
            reasoning, closed, text = "", "", turn["content"]
        if text.strip():
            text = place(text, f"turn {number} of the prompt ({turn['role']})")
        turn = {**turn, "content": reasoning + closed + text}
        turns.append(_with_calls(turn, f"turn {number}", place))
    return turns, tuple(_tool(tool, number, place) for number, tool in enumerate(tools, 1))


def answer_parts(turn: Message, place: Place) -> Message:
    """An answer with its reasoning and the parts of its tool calls replaced by `place`."""
    if "reasoning_content" in turn:
        reasoning = place(turn["reasoning_content"], "the reasoning of this answer")
        turn = {**turn, "reasoning_content": reasoning}
    return _with_calls(turn, "this answer", place)


def _with_calls(turn: Message, of: str, place: Place) -> Message:
    calls = []
    for number, call in enumerate(turn.get("tool_calls", ()), 1):
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        what = f"the tool calls of {of}" if number == 1 else f"tool call {number} of {of}"
        own = {"name": place(name, what)}
        own["arguments"] = _leaves(arguments, lambda v, what=what: place(v, f"the arguments in {what}"))
        calls.append({**call, "function": own})
    return {**turn, "tool_calls": calls} if calls else turn


def _leaves(value: Any, place: Callable[[Any], Any]) -> Any:
    """A JSON value with `place` applied to every name and every value that contains no others."""
    if isinstance(value, dict):
        return {place(name): _leaves(held, place) for name, held in value.items()}
    return [_leaves(held, place) for held in value] if isinstance(value, list) else place(value)


def _tool(tool: dict[str, Any], number: int, place: Place) -> dict[str, Any]:
    """A tool with `place` applied to its name and description, and to those of its parameters."""
    function = tool.get("function", tool)
    what = "'tools'" if number == 1 else f"tool {number} of 'tools'"
    own = _described({**function, "name": place(function["name"], what)}, what, place)
    parameters = own.get("parameters")
    properties = parameters.get("properties") if isinstance(parameters, dict) else None
    if isinstance(properties, dict):
        named = {
            place(name, f"the parameters in {what}"): _described(held, f"the parameters in {what}", place)
            for name, held in properties.items()
        }
        own["parameters"] = {**parameters, "properties": named}
    return {**tool, "function": own} if "function" in tool else own


def _described(value: Any, what: str, place: Place) -> Any:
    text = value.get("description") if isinstance(value, dict) else None
    if not isinstance(text, str) or not text.strip():
        return value
    return {**value, "description": place(text, f"a description in {what}")}


def marked() -> tuple[list[str], list[tuple[Any, str]], Place]:
    """A list of words, a list of the parts that they replace, and the `Place` that fills both."""
    words: list[str] = []
    parts: list[tuple[Any, str]] = []

    def place(value: Any, what: str) -> str:
        words.append(f"zq{len(words)}qz")
        parts.append((value, what))
        return words[-1]

    return words, parts, place


def one(number: int, other: Any) -> Place:
    """Replaces one part, by its number from 0, with `other`."""
    numbers = itertools.count()
    return lambda value, what: other if next(numbers) == number else value


def other_than(part: Any) -> Any:
    """Another value; for a text, one of the same length."""
    if not isinstance(part, str):
        return "zqz"
    digits = "".join(c if c.isspace() else "7" for c in part)
    return digits if digits != part else digits.replace("7", "8")


def end_of_part(text: str, seen: str, since: int = 0) -> int:
    """The place after `text` in a rendered text (as it is, or as JSON; without white space), or 0.

    Args:
        seen: the rendered text, squeezed.
        since: where to begin.
    """
    for spelt in (text, json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(text)[1:-1]):
        own = squeezed(spelt)
        if (place := seen.find(own, since)) >= 0:
            return place + len(own)
    return 0


def breaks(text: str, seen: str) -> Iterator[str]:
    """The text with one character changed: where the rendered start of it ends, then where its end begins."""
    places = [i for i, c in enumerate(text) if not c.isspace()]
    bare, count = squeezed(text), len(places)
    from_start = bisect_left(range(count), True, key=lambda n: bare[: n + 1] not in seen)
    from_end = bisect_left(range(count), True, key=lambda n: bare[count - n - 1 :] not in seen)
    for place in (places[from_start], places[count - 1 - from_end]):
        yield text[:place] + ("7" if text[place] != "7" else "8") + text[place + 1 :]


def squeezed(text: str) -> str:
    """The text without white space."""
    return "".join(text.split())
