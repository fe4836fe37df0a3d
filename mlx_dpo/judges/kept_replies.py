"""Replies of a model that is asked; every reply is kept, and none is asked for twice."""

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..chat_protocol import Failure, Reply, Request
from ..console import plural, say
from ..errors import DpoError
from ..storage.append_log import OpenLog
from .config import PaidEndpointConfig
from .prompts import without_control_marks
from .verdicts import worth_keeping

LABEL_TOKENS = 10
"""First tokens whose log-probabilities are asked for; mlx_lm.server gives at most 11."""
_REPEATED = 2000
"""Characters of an unreadable reply that are shown to the model again."""


class Kept(NamedTuple):
    """What is kept of a reply: all that its meaning depends on, and the limit on its length."""

    text: str
    finish_reason: str | None
    top_logprobs: tuple[tuple[str, float], ...]
    max_tokens: int
    model: str

    def as_row(self) -> dict[str, Any]:
        """As values of a line of the log, which `kept_reply` reads."""
        return {
            "reply": self.text,
            "finish_reason": self.finish_reason,
            "top_logprobs": self.top_logprobs,
            "max_tokens": self.max_tokens,
            "model": self.model,
        }


class NoReply(Exception):
    """The model gave no reply to one request, although it works; nothing is kept."""


class NotAsked(Exception):
    """A reply is not kept, and no request may be sent (any more)."""


@dataclass
class Calls:
    """What this process asked for.

    `sent`: requests, also those without a reply, without the probe. The tokens are counted by the server, and
    include the probe. `uncounted`: replies whose tokens the server did not count, also those that broke off.
    """

    sent: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0

    def add(self, reply: Reply) -> None:
        """Count the tokens of a reply."""
        self.prompt_tokens += reply.prompt_tokens or 0
        self.completion_tokens += reply.completion_tokens or 0
        self.uncounted += reply.prompt_tokens is None or reply.completion_tokens is None

    def price(self, settings: PaidEndpointConfig) -> float | None:
        """What the replies cost; None if no price is set, or the server did not count all tokens."""
        return None if self.uncounted else settings.price(self.prompt_tokens, self.completion_tokens)


@dataclass(kw_only=True)
class KeptReplies:
    """A model that is asked, with the replies that are kept. Its methods can be called from several threads.

    Args:
        ask: sends a request; None: only replies that are kept are used.
        key: identifies the model: the server's name of it, or the content of a local one.
        log: the open log of replies, read by `kept_reply`.
        max_calls: requests that may be sent.

    `models`: the names that the replies were signed with.
    """

    ask: Callable[[Request], Reply | Failure] | None
    key: str
    log: OpenLog
    max_calls: int | None = None
    calls: Calls = field(default_factory=Calls)
    models: set[str] = field(default_factory=set)
    lock: Any = field(default_factory=threading.Lock)

    def reply(self, request: Request, method: str, row: Callable[[Kept], Mapping[str, Any]]) -> Kept:
        """The reply that is kept for these messages, or a new one, which is kept at once.

        Args:
            method: how the model replies; replies in another way are not taken.
            row: the line of the log for a reply, without its key.

        Raises:
            NoReply or NotAsked; DpoError: the server is out of order.
        """
        content = [self.key, method, list(request.messages)]
        key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
        kept = self.log.results.get(key)
        # A reply that did not fit into a smaller limit is worth another try.
        if kept and not (kept.finish_reason == "length" and kept.max_tokens < request.max_tokens):
            self.models.add(kept.model)
            return kept
        with self.lock:
            if self.ask is None or (self.max_calls is not None and self.calls.sent >= self.max_calls):
                raise NotAsked
            self.calls.sent += 1
        reply = self.ask(request)
        with self.lock:
            self.calls.sent += reply.sent - 1
            self.calls.uncounted += reply.sent - 1
        if isinstance(reply, Failure):
            raise NoReply(reply.reason)
        likely = worth_keeping(reply.top_logprobs, LABEL_TOKENS)
        kept = Kept(reply.text, reply.finish_reason, likely, request.max_tokens, reply.model)
        with self.lock:
            self.log.append(key, row(kept), kept)
            self.calls.add(reply)
            self.models.add(kept.model)
        return kept


def say_kept(log: OpenLog) -> None:
    """Say how many replies the log has from before."""
    if log.results:
        say(f"{plural(len(log.results), 'reply is', 'replies are')} kept from before; continuing")


def asked_again(request: Request, reply: str, why: str, form: str) -> Request:
    """The request once more, after a reply that cannot be read.

    Args:
        why: as in `UnreadableReplyError`.
        form: the form of the reply that is wanted.
    """
    again = f"Your reply cannot be used: {why}. {form}"
    shown = without_control_marks(reply[:_REPEATED].strip()).encode(errors="replace").decode()
    shown = shown or "..."  # some servers refuse a turn of blanks
    said = [{"role": "assistant", "content": shown}, {"role": "user", "content": again}]
    return request._replace(messages=[*request.messages, *said])


def kept_reply(row: dict[str, Any], where: str) -> tuple[str, Kept]:
    """The key and the reply of a line of the log; what it means is read from the raw reply again.

    Raises:
        DpoError: the line is not one of this version.
    """
    try:
        likely = tuple((str(token), float(value)) for token, value in row["top_logprobs"])
        kept = Kept(
            str(row["reply"]), row["finish_reason"], likely, int(row["max_tokens"]), str(row["model"])
        )
        return str(row["key"]), kept
    except (KeyError, TypeError, ValueError):
        raise DpoError(
            "is not a kept reply of this version",
            where=where,
            hint="remove the line: the same command then asks for this reply again",
        ) from None
