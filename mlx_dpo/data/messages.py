"""JSON of a conversation to messages: roles, content parts, tool calls, reasoning."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import DpoError
from ..records import Message, Tools
from ..storage.jsonl import TwiceError, once

ROLES = ("system", "user", "assistant", "tool")
OTHER_ROLES = {
    "developer": "system",
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function": "tool",
    "ipython": "tool",
    "observation": "tool",
}
"""Names that other formats use for our roles."""

REASONING = ("reasoning_content", "reasoning", "thinking")
"""Names of a turn's reasoning in files; a message stores it under the first name."""

_NOT_OF_A_TURN = (
    *("image", "images", "image_url", "audio", "audios", "audio_url", "input_audio"),
    *("video", "videos", "video_url", "files", "documents", "tools"),
)
_ARGUMENTS = ("arguments", "parameters", "args", "kwargs", "params", "input", "inputs")
"""Names of a call's arguments in files; only `arguments` is read."""

_NOTHING = (None, "", [], {})
_MESSAGE_HINT = 'a message is {"role": "user", "content": "..."}'
_KINDS = {type(None): "null", bool: "true or false", list: "a list", dict: "an object", str: "text"}


_PART = {"question": "prompt", "messages": "prompt", "completion": "answer"}
"""Other names of columns, and what the column holds."""


def empty_column(key: str, where: str, hint: str) -> DpoError:
    """What to raise for a column, or a turn in it, that has no text."""
    column = key.partition(".")[0]
    code = f"empty-{_PART.get(column, column)}"
    return DpoError(f"'{key}' is empty", where=where, hint=hint, code=code)


def kind_of(value: Any) -> str:
    """What a JSON value is, in words."""
    return _KINDS.get(type(value), "a number")


def text_of(value: Any, key: str, where: str) -> str:
    """A text that is not empty, without the white space around it.

    Raises:
        DpoError: the value is not such a text.
    """
    if not isinstance(value, str):
        raise DpoError(
            f"'{key}' must be text, got {kind_of(value)}",
            where=where,
            hint="write a text as a JSON string, and a conversation as a list of {role, content}",
            code="wrong-type",
        )
    if not value.strip():
        raise empty_column(key, where, "fill it in or remove the row")
    return value.strip()


def messages_of(value: Any, key: str, where: str) -> tuple[Message, ...]:
    """A list of turns.

    Raises:
        DpoError: not a list of turns, or a turn has content that cannot be trained on.
    """
    if not isinstance(value, list):
        raise DpoError(
            f"'{key}' must be a list of messages, got {kind_of(value)}",
            where=where,
            hint=_MESSAGE_HINT,
            code="wrong-type",
        )
    return tuple(_message(turn, key, where) for turn in value)


def _message(turn: Any, key: str, where: str) -> Message:
    if isinstance(turn, dict) and {"from", "value"} <= turn.keys():
        raise DpoError(
            f"'{key}' has ShareGPT turns (from, value)",
            where=where,
            hint="rename from to role (human becomes user, gpt becomes assistant) and value to content",
            code="bad-turn",
        )
    if not isinstance(turn, dict) or "role" not in turn or not turn.keys() & {"content", "tool_calls"}:
        what = f"'{key}' has a turn that lacks a role or content"
        raise DpoError(what, where=where, hint=_MESSAGE_HINT, code="bad-turn")
    role = turn["role"]
    if role not in ROLES:
        known = OTHER_ROLES.get(role) if isinstance(role, str) else None
        hint = f"write {known!r}" if known else f"the roles are {', '.join(ROLES)}"
        raise DpoError(
            f"'{key}' has the unknown role {str(role)[:40]!r}", where=where, hint=hint, code="bad-role"
        )
    _check_only_text(turn, key, where)
    if turn.get("function_call"):
        hint = "write it as tool_calls: a list of {type, function: {name, arguments}}"
        raise DpoError(f"'{key}' has a function_call", where=where, hint=hint, code="bad-tools")
    message: Message = {"role": role, "content": ""}
    if role == "assistant":
        if calls := turn.get("tool_calls"):
            message["tool_calls"] = _tool_calls(calls, key, where)
        if reasoning := _reasoning(turn, key, where):
            message["reasoning_content"] = reasoning
    elif turn.get("tool_calls"):
        raise DpoError(
            f"'{key}' has tool_calls in a turn of role {role!r}",
            where=where,
            hint="only assistant turns can call tools",
            code="bad-tools",
        )
    if role == "tool":
        message |= {name: turn[name] for name in ("name", "tool_call_id") if turn.get(name)}
    content = _content(turn.get("content"), key, where)
    may_be_empty = role == "tool" or "tool_calls" in message
    if not (may_be_empty and content in (None, "")):
        content = text_of(content, key, where)
    message["content"] = content or ""
    return message


def _check_only_text(held: dict[str, Any], key: str, where: str) -> None:
    """Check that a turn, or a text part of one, has only text: no image, sound or tools."""
    if beside := next((name for name in _NOT_OF_A_TURN if held.get(name)), None):
        hint = (
            "mlx-dpo trains on text only: remove it; tools belong in the row, documents in the prompt's text"
        )
        raise DpoError(f"'{key}' has {beside} in a turn", where=where, hint=hint, code="not-text")


def _reasoning(turn: dict[str, Any], key: str, where: str) -> str:
    """The reasoning of a turn, under any of its names; "" if there is none."""
    found = {name: text_of(turn[name], f"{key}.reasoning", where) for name in REASONING if turn.get(name)}
    if len({*found.values()}) > 1:
        raise DpoError(
            f"'{key}' has a turn whose {' and '.join(found)} differ",
            where=where,
            hint="keep one of these fields: both hold the reasoning of the turn",
            code="bad-turn",
        )
    return next(iter(found.values()), "")


def _content(value: Any, key: str, where: str) -> Any:
    """The text of content parts; anything else as it is."""
    if not isinstance(value, list):
        return value
    texts = []
    for part in value:
        kind = "text" if isinstance(part, str) else part.get("type") if isinstance(part, dict) else None
        if kind not in ("text", "input_text", "output_text"):
            raise DpoError(
                f"'{key}' has a content part of type {str(kind)[:40]!r}",
                where=where,
                hint="mlx-dpo trains on text only: remove the row, or remove images, sound and video from it",
                code="not-text",
            )
        if isinstance(part, dict):
            _check_only_text(part, key, where)
        texts.append(part if isinstance(part, str) else part.get("text"))
    if not all(isinstance(text, str) for text in texts):
        what = f"'{key}' has a text part without text"
        raise DpoError(what, where=where, hint=_MESSAGE_HINT, code="not-text")
    return "".join(texts)


def _tool_calls(value: Any, key: str, where: str) -> list[dict[str, Any]]:
    """Tool calls with arguments as objects, which every template can print."""
    calls = []
    for call in value if isinstance(value, list) else [None]:
        function = call.get("function", call) if isinstance(call, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        arguments = _arguments(function, key, where) if isinstance(function, dict) else None
        if not isinstance(name, str) or not isinstance(arguments, dict):
            raise DpoError(
                f"'{key}' has a tool call that lacks a function name or an object of arguments",
                where=where,
                hint='a tool call is {"type": "function", "function": {"name": "...", "arguments": {...}}}',
                code="bad-tools",
            )
        held = [name for name in _ARGUMENTS[1:] if function.get(name) not in _NOTHING]
        held += [name for name in _ARGUMENTS if function is not call and call.get(name) not in _NOTHING]
        if held:
            raise DpoError(
                f"'{key}' has a tool call with '{held[0]}' outside function.arguments",
                where=where,
                hint="move it into function.arguments, or remove it if it is not an argument",
                code="bad-tools",
            )
        own = {"type": "function", "function": {"name": name, "arguments": arguments}}
        calls.append({**own, **({"id": call["id"]} if call.get("id") else {})})
    return calls


def _arguments(function: dict[str, Any], key: str, where: str) -> Any:
    """The arguments of a call; {} if the call has none under any name."""
    value = function.get("arguments")
    if isinstance(value, str):
        value = _json_text(value, key, where) if value.strip() else None
        return {} if value is None else value
    if value is None and function.keys() <= {"name", "arguments", "id", "type", "description"}:
        return {}
    return value


def _json_text(text: str, key: str, where: str) -> Any:
    """The JSON value of a text; the text itself if it is not JSON, or JSON that cannot be written again.

    Raises:
        DpoError: an object in it has the same name twice.
    """
    try:
        value = json.loads(text, object_pairs_hook=once)
        json.dumps(value, ensure_ascii=False).encode()
    except TwiceError as error:
        what = f"'{key}' has JSON text in which {str(error)[:60]!r} is written twice"
        raise DpoError(what, where=where, hint="keep one of the two", code="written-twice") from None
    except (ValueError, RecursionError):
        return text
    return value


def tools_of(value: Any, where: str) -> Tools:
    """The tools of a row: a list of definitions, given as a list or as JSON text.

    Raises:
        DpoError: the value is not such a list.
    """
    if isinstance(value, str):
        value = _json_text(value, "tools", where) if value.strip() else None
    found = value or []
    listed = found if isinstance(found, list) else [None]
    functions = [tool.get("function", tool) if isinstance(tool, dict) else None for tool in listed]
    if not all(isinstance(function, dict) and function.get("name") for function in functions):
        raise DpoError(
            "'tools' must be a list of tool definitions",
            where=where,
            hint='a tool is {"type": "function", "function": {"name": "...", "parameters": {...}}}',
            code="bad-tools",
        )
    return tuple(listed)


def message_text(message: Message) -> str:
    """A turn as people read it: reasoning, text, tool calls, each on a new line."""
    reasoning = message.get("reasoning_content")
    parts = [f"<think>\n{reasoning}\n</think>"] if reasoning else []
    parts += [message["content"]] if message["content"] else []
    calls = [call["function"] for call in message.get("tool_calls", ())]
    return "\n".join([*parts, *(json.dumps(call, ensure_ascii=False) for call in calls)])


def unused_fields(value: Any) -> Iterator[str]:
    """Names of non-empty fields in the turns of a list that a message does not use."""
    for turn in value if isinstance(value, list) else ():
        if isinstance(turn, dict):
            role, used = turn.get("role"), {"role", "content"}
            used |= {"tool_calls", *REASONING} if role == "assistant" else set()
            used |= {"name", "tool_call_id"} if role == "tool" else set()
            yield from _beside(turn, used)
            parts = turn.get("content")
            for part in parts if isinstance(parts, list) else ():
                yield from (f"content[].{name}" for name in _beside(part, {"type", "text"}))
            calls = turn.get("tool_calls") if role == "assistant" else None
            for call in calls if isinstance(calls, list) else ():
                yield from (f"tool_calls[].{name}" for name in _unused_in_call(call))


def _unused_in_call(call: Any) -> Iterator[str]:
    if isinstance(call, dict) and "function" in call:
        yield from _beside(call, {"id", "type", "function"})
        yield from (f"function.{name}" for name in _beside(call["function"], {"name", "arguments"}))
    else:
        yield from _beside(call, {"id", "type", "name", "arguments"})


def _beside(value: Any, used: set[str]) -> Iterator[str]:
    """Names of non-empty fields of an object that are not used."""
    for name, held in value.items() if isinstance(value, dict) else ():
        if name not in used and held not in _NOTHING:
            yield name


def earlier_reasoning(prompt: Sequence[Message]) -> str:
    """The first reasoning in a turn of the prompt, without the marks around it; "" where there is none."""
    for turn in prompt:
        reasoning, closed, _ = turn["content"].rpartition("</think>")
        if turn["role"] == "assistant" and (closed or "reasoning_content" in turn):
            return turn.get("reasoning_content", reasoning).replace("<think>", "").strip()
    return ""
