"""The chat template: a conversation as text."""

import datetime
import hashlib
import json
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from ..errors import DpoError, first_line
from ..records import Message
from ..upstream import has_renderer, remove_renderer, template_clock, template_sandbox

DEFAULT_OPTIONS = {"enable_thinking": False}
"""Prompts are rendered without a reasoning block, the same way for sampling, training and evaluation."""

OWN_ARGUMENTS = ("messages", "conversation", "tokenize", "add_generation_prompt", "continue_final_message")
"""Arguments of a template that a user cannot set."""

_SECONDS, _SECONDS_A_TURN = 3.0, 0.001
"""CPU time that the renderings of one row may take; they usually take a thousandth of it."""
_OTHER_TEMPLATE = "download the model from its publisher again, or set another model.chat_template"


def set_template(tokenizer: Any, source: str | None, options: Mapping[str, Any]) -> None:
    """Give the tokenizer a chat template, if there is one, and the options that it is rendered with.

    Args:
        options: arguments of the template, over DEFAULT_OPTIONS; `date` (2024-07-26) replaces today's date.
    """
    tokenizer._template_options, tokenizer._now = dict(options), None
    if source is not None:
        tokenizer.chat_template = source
        tokenizer.has_chat_template = True
        tokenizer._answer_tail = None
        remove_renderer(tokenizer)
    _check_options(tokenizer, options)


def _check_options(tokenizer: Any, options: Mapping[str, Any]) -> None:
    """Check that the template uses every option; templates call `date` by other names.

    Raises:
        DpoError: the template does not use one of them.
    """
    source = tokenizer.chat_template if tokenizer.has_chat_template else ""
    for name in options if isinstance(source, str) and not has_renderer(tokenizer) else ():
        words = ("date_string", "strftime_now") if name == "date" else (name,)
        if not any(re.search(rf"\b{re.escape(word)}\b", source) for word in words):
            raise DpoError(
                f"template_options sets {name[:60]}, which the chat template does not use",
                where="model.template_options",
                hint="check the name in the model's chat_template, or remove the option",
            )


def template_options(tokenizer: Any) -> dict[str, Any]:
    """Arguments that the template is rendered with; `date` becomes the argument that templates read."""
    options = {**DEFAULT_OPTIONS, **getattr(tokenizer, "_template_options", {})}
    if date := options.pop("date", None):
        options = {"date_string": _day(date).strftime("%d %b %Y"), **options}
    return options


def _day(date: Any) -> datetime.datetime:
    """
    Raises:
        DpoError: not a date.
    """
    try:
        return datetime.datetime.fromisoformat(str(date))
    except ValueError:
        raise DpoError(
            f"date must be a day such as 2024-07-26, got {str(date)[:40]!r}",
            where="model.template_options",
            hint="write year, month and day; templates that print today's date print this day instead",
        ) from None


class _Clock:
    """A clock that stands still: at `date`, or at the time of its first use.

    So a prompt is rendered the same with and without an answer, even at midnight. transformers calls it as it
    calls `datetime`.
    """

    def __init__(self, tokenizer: Any):
        if getattr(tokenizer, "_now", None) is None:
            date = getattr(tokenizer, "_template_options", {}).get("date")
            tokenizer._now = _day(date) if date else datetime.datetime.now()
        self._now = tokenizer._now

    def now(self) -> datetime.datetime:
        return self._now


def render(
    tokenizer: Any,
    messages: Sequence[Message],
    *,
    generation_prompt: bool,
    tools: Sequence[dict[str, Any]] = (),
    options: Mapping[str, Any] | None = None,
) -> str:
    """The conversation as text; without a template, the contents are joined with blank lines.

    Args:
        tools: definitions that the prompt offers.
        options: instead of `template_options`.

    Raises:
        DpoError: the template refuses the conversation, does not end, or produces too much text.
    """
    if not tokenizer.has_chat_template:
        _check_plain(tokenizer, messages, tools)
        return "\n\n".join(m["content"] for m in messages) + ("\n\n" if generation_prompt else "")
    if isinstance(tokenizer.chat_template, str) and not tokenizer.chat_template.strip():
        hint = "set model.chat_template to chatml, or to a .jinja file"
        raise DpoError("the chat template is empty", where=tokenizer.name_or_path, hint=hint)
    options = template_options(tokenizer) if options is None else options
    options = {**options, **({"tools": list(tools)} if tools else {})}

    def rendered(turns: Sequence[Message]) -> str:
        return tokenizer.apply_chat_template(
            list(turns), tokenize=False, add_generation_prompt=generation_prompt, **options
        )

    from .template_sandbox import BoundedEnvironment  # jinja2 is slow to import

    try:
        template_sandbox(BoundedEnvironment)
        with limited_time(tokenizer, len(messages)), template_clock(_Clock(tokenizer)):
            return _with_calls(rendered, messages)
    except DpoError:
        raise
    except Exception as error:  # templates are code of the model's author and may raise anything
        raise _refusal(tokenizer, error) from None


def _refusal(tokenizer: Any, error: Exception) -> DpoError:
    """What to raise when a template fails on a conversation, with a remedy for the cause."""
    from jinja2.exceptions import TemplateError, TemplateSyntaxError

    from .template_sandbox import MOST, TooLargeError

    code = "template-refuses"
    what = f"the chat template refuses this conversation: {first_line(error)}"
    own = tokenizer.chat_template
    if isinstance(own, dict):
        what = "the tokenizer has several chat templates, and none of them is the default"
        hint = f"set model.chat_template to {', or '.join(sorted(own))}"
    elif isinstance(error, TooLargeError | MemoryError):
        what, hint = f"the chat template produces more than {MOST:,} characters", _OTHER_TEMPLATE
        code = "template-too-large"
    elif isinstance(error, TemplateSyntaxError):
        what = f"the chat template has a syntax error: {first_line(error)} (line {error.lineno})"
        hint = _OTHER_TEMPLATE
    elif re.search(r"\brole|system|alternat", str(error), re.IGNORECASE):
        hint = "check the order of roles; some templates accept no system turn, some no tools"
    elif type(error) is TemplateError:  # the template's own words
        hint = "change the row as the template demands, or set another model.chat_template"
    else:
        hint = "the template fails on these turns: set another model.chat_template, or remove the row"
    return DpoError(what, where=tokenizer.name_or_path, hint=hint, code=code)


def _with_calls(rendered: Callable[[Sequence[Message]], str], messages: Sequence[Message]) -> str:
    """Rendered with arguments of tool calls as objects, or else as text, which DeepSeek's templates need."""
    names = [call["function"]["name"] for turn in messages for call in turn.get("tool_calls", ())]
    try:
        text = rendered(messages)
        if all(name in text for name in names):
            return text
    except Exception:  # templates are code of the model's author and may raise anything
        if not names:
            raise
        return rendered([_calls_as_text(turn) for turn in messages])
    with suppress(Exception):
        other = rendered([_calls_as_text(turn) for turn in messages])
        return other if all(name in other for name in names) else text
    return text


def _calls_as_text(turn: Message) -> Message:
    if "tool_calls" not in turn:
        return turn
    functions = [call["function"] for call in turn["tool_calls"]]
    written = [
        {**call, "function": {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}}
        for call, function in zip(turn["tool_calls"], functions, strict=True)
    ]
    return {**turn, "tool_calls": written}


def _check_plain(tokenizer: Any, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> None:
    if tools or any(m.keys() > {"role", "content"} for m in messages):
        raise DpoError(
            "the model has no chat template, so tools and reasoning cannot be rendered",
            where=tokenizer.name_or_path,
            hint="set model.chat_template, or remove these rows",
            code="template-leaves-out",
        )


class _Endless(BaseException):
    """Raised in a template that does not end; no handler in the template catches it."""


@contextmanager
def limited_time(tokenizer: Any, turns: int) -> Iterator[None]:
    """Stop a template after some CPU time. Inside another such block, the time of the outer block counts.

    Signals reach the main thread only.

    Raises:
        DpoError: the template took longer.
    """
    within = signal.getitimer(signal.ITIMER_VIRTUAL)[0] > 0
    if within or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        raise _Endless

    seconds = _SECONDS + turns * _SECONDS_A_TURN
    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    except _Endless:
        raise DpoError(
            f"the chat template did not finish within {seconds:.0f} s of CPU time",
            where=tokenizer.name_or_path,
            hint=_OTHER_TEMPLATE,
            code="template-endless",
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def template_hash(tokenizer: Any) -> str:
    """16 hex digits that change when the chat template or its options do, but not with today's date."""
    source = tokenizer.chat_template
    if not isinstance(source, str):
        source = render(tokenizer, [{"role": "user", "content": "a"}], generation_prompt=True)
    own = getattr(tokenizer, "_template_options", None)
    text = source + (json.dumps(own, sort_keys=True, default=str) if own else "")
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
