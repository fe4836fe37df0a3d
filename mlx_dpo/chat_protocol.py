"""Requests and replies of OpenAI's chat protocol, as servers take and give them."""

import json
import time
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from .records import Message

if TYPE_CHECKING:
    import openai


class Request(NamedTuple):
    """One question. `schema`: a JSON schema for the reply; `top_logprobs`: how many for the first token.

    `function`: the name of a function that the model has to call, with the schema as its parameters; the
    reply's text is then what it calls the function with. For a server without functions, the schema alone
    gives the form.
    """

    messages: Sequence[Message]
    max_tokens: int
    temperature: float = 0.0
    seed: int | None = None
    top_p: float | None = None
    schema: dict[str, Any] | None = None
    top_logprobs: int = 0
    stop: Sequence[str] | None = None
    function: str | None = None


class Reply(NamedTuple):
    """What the server answered.

    `finish_reason`: "stop", "length", "content_filter", or "refusal" if the model refused; the text then says
    why. `top_logprobs`: (token, log-probability in nats) of the likeliest first tokens; empty if the server
    gives none. `model`: the name that the server gives, or "". Token counts are None if the server does not
    count. `sent`: how often the request was sent, as far as it may have been charged for.
    """

    text: str
    finish_reason: str | None
    top_logprobs: tuple[tuple[str, float], ...]
    model: str
    prompt_tokens: int | None
    completion_tokens: int | None
    sent: int = 1


class Failure(NamedTuple):
    """Why there is no reply to one question, although the server works; `sent` as of a Reply, at least 1."""

    reason: str
    sent: int = 1


_MAX_TOKENS, _MAX_COMPLETION_TOKENS = "max_tokens", "max_completion_tokens"
_LONGEST_WAIT_SECONDS = 86_400.0


def arguments(request: Request, left_out: Set[str]) -> dict[str, Any]:
    """The request as the SDK takes it, without arguments that the server refuses."""
    every: dict[str, Any] = {
        _MAX_TOKENS: request.max_tokens,
        "temperature": request.temperature,
        "seed": request.seed,
        "top_p": request.top_p,
        "stop": request.stop,
    }
    if request.schema and request.function and "tools" not in left_out:
        function = {"name": request.function, "parameters": request.schema}
        every["tools"] = [{"type": "function", "function": function}]
        every["tool_choice"] = {"type": "function", "function": {"name": request.function}}
    elif request.schema:
        form = {"name": "reply", "strict": True, "schema": request.schema}
        every["response_format"] = {"type": "json_schema", "json_schema": form}
    if request.top_logprobs:
        every |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    if _MAX_TOKENS in left_out:  # OpenAI's newer models
        every[_MAX_COMPLETION_TOKENS] = request.max_tokens
    if "logprobs" in left_out:
        left_out = left_out | {"top_logprobs"}
    sent = {name: value for name, value in every.items() if name not in left_out and value is not None}
    return {"messages": list(request.messages), **sent}


def refused_argument(error: "openai.APIStatusError", arguments: Mapping[str, Any]) -> str | None:
    """The optional argument that a 400 is about.

    A 400 without a name is taken to mean the form of the reply: tools or response_format.
    """
    body = error.body if isinstance(error.body, dict) else {}
    about = f"{body.get('param')} {body.get('message')} {error}".lower()
    forms = ("tools", "response_format")
    if "tools" in arguments and "tool" in about:
        return "tools"
    named = (*forms, "logprobs", "temperature", "top_p", "seed", "stop", _MAX_TOKENS)
    found = next((name for name in named if name in arguments and name in about), None)
    return found or next((name for name in forms if name in arguments), None)


def retry_after(error: "openai.APIStatusError") -> float | None:
    """Seconds to wait before the next request, at most a day; None if the server does not ask to wait.

    It may give a date, which is compared with its own clock if the reply has the time.
    """
    headers = error.response.headers
    for read in (
        lambda: float(headers["retry-after-ms"]) / 1000,
        lambda: float(headers["retry-after"]),
        lambda: (
            _time(headers["retry-after"]) - (_time(headers["date"]) if "date" in headers else time.time())
        ),
    ):
        with suppress(KeyError, ValueError):
            return min(max(0.0, read()), _LONGEST_WAIT_SECONDS)
    return None


def _time(date: str) -> float:
    """Seconds since 1970 of an HTTP date, such as "Sat, 28 Nov 2026 09:21:32 GMT"."""
    return parsedate_to_datetime(date).timestamp()


def reply_of(response: Any) -> Reply | Failure:
    """The first choice of a response, whose fields a server may have left out, or filled in its own way."""
    choices = getattr(response, "choices", None)
    if not isinstance(choices, list) or not choices or getattr(choices[0], "message", None) is None:
        return Failure("the reply has no choices")
    choice, usage = choices[0], getattr(response, "usage", None)
    message, ended = choice.message, getattr(choice, "finish_reason", None)
    refusal = getattr(message, "refusal", None)
    name = getattr(response, "model", None)
    return Reply(
        text=_text_of(refusal or _called_with(message) or getattr(message, "content", None)),
        finish_reason="refusal" if refusal else ended if isinstance(ended, str) else None,
        top_logprobs=_first_token(choice),
        model=name if isinstance(name, str) else "",
        prompt_tokens=_count(getattr(usage, "prompt_tokens", None)),
        completion_tokens=_count(getattr(usage, "completion_tokens", None)),
    )


def _called_with(message: Any) -> Any:
    """What the model calls the first function with; None if it calls none."""
    calls = getattr(message, "tool_calls", None)
    called = isinstance(calls, list) and calls
    return getattr(getattr(calls[0], "function", None), "arguments", None) if called else None


def _text_of(value: Any) -> str:
    """A text as it is; of a list of parts, those that are text; the JSON of any other value."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, list):
        parts = [part.get("text") if isinstance(part, dict) else part for part in value]
        return "".join(part for part in parts if isinstance(part, str))
    return json.dumps(value, default=str)


def _count(value: Any) -> int | None:
    """A number of tokens; None for anything else."""
    return value if type(value) is int and value >= 0 else None


def _first_token(choice: Any) -> tuple[tuple[str, float], ...]:
    """(token, log-probability) of the likeliest first tokens; none if they have another form."""
    try:
        return tuple((str(one.token), float(one.logprob)) for one in choice.logprobs.content[0].top_logprobs)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return ()
