"""Asks the judge about two answers in both orders; every reply is kept, and none is asked for twice."""

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..chat_protocol import Failure, Reply, Request
from ..errors import DpoError
from ..records import Message, Tools
from ..storage.append_log import AppendLog, OpenLog
from .completions import Completions
from .prompts import (
    LABEL_FORM,
    WRITTEN_FORM,
    Quoted,
    Rubric,
    conversation,
    judge_messages,
    without_control_marks,
)
from .ranking import best_and_worst
from .verdicts import SCHEMA, Comparison, Reading, compared, read_labels, read_written, worth_keeping

LABEL_TOKENS = 10
"""First tokens whose log-probabilities are asked for; mlx_lm.server gives at most 11."""
_REPEATED = 2000
"""Characters of an unreadable reply that are shown to the judge again."""


class Kept(NamedTuple):
    """What is kept of a reply: all that its verdict depends on, and the limit on its length."""

    text: str
    finish_reason: str | None
    top_logprobs: tuple[tuple[str, float], ...]
    max_tokens: int
    model: str


class NoReply(Exception):
    """The judge gave no reply to one request, although it works; nothing is kept."""


class NotAsked(Exception):
    """A reply is not kept, and no request may be sent (any more)."""


@dataclass
class Calls:
    """What this process asked for.

    `sent`: requests of comparisons, also those without a reply. The tokens are counted by the server, and
    include the probe. `uncounted`: replies whose tokens the server did not count.
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


class Judged(NamedTuple):
    """What the judge made of a row: the numbers of its best and its worst answer; None if undecided.

    `failed`: why the row has no outcome although it should have one. `unfinished`: no more requests
    might be sent.
    """

    row: Completions
    decided: tuple[int, int] | None
    comparisons: tuple[Comparison, ...]
    failed: str = ""
    unfinished: bool = False


@dataclass
class Judge:
    """A judge with what it is asked by.

    Args:
        ask: sends a request; None: only replies that are kept are used.
        key: identifies the judge: the server's name of the model, or the content of a local one.
        method: "labels" or "written".
        schema: send the schema of a written verdict too.
        log: the open log of replies, see `verdicts_log`.

    `models`: the names that the replies were signed with.
    """

    ask: Callable[[Request], Reply | Failure] | None
    key: str
    rubric: Rubric
    method: str
    max_tokens: int
    tie_band: float
    log: OpenLog
    schema: bool = False
    max_calls: int | None = None
    calls: Calls = field(default_factory=Calls)
    models: set[str] = field(default_factory=set)
    lock: Any = field(default_factory=threading.Lock)

    def rank(self, row: Completions) -> Judged:
        """The best and the worst answer of a row, with all comparisons that were needed."""
        if len(row.answers) < 2:
            return Judged(row, None, ())
        done: dict[tuple[int, int], Comparison] = {}

        def compare(first: int, second: int) -> str | None:
            done[first, second] = self.compare(row.prompt, row.answers[first], row.answers[second], row.tools)
            return done[first, second].outcome

        try:
            decided = best_and_worst(len(row.answers), compare)
        except NoReply as failure:
            return Judged(row, None, tuple(done.values()), failed=str(failure))
        except NotAsked:
            return Judged(row, None, tuple(done.values()), unfinished=True)
        return Judged(row, decided, tuple(done.values()))

    def compare(self, prompt: tuple[Message, ...], first: str, second: str, tools: Tools = ()) -> Comparison:
        """Two answers, shown in both orders.

        Raises:
            NoReply or NotAsked; DpoError: the server is out of order.
        """
        forward, swapped = (
            self.reading(Quoted(prompt, a, b, tools)) for a, b in ((first, second), (second, first))
        )
        return compared(first, second, forward, swapped, self.tie_band)

    def reading(self, quoted: Quoted) -> Reading:
        """The verdict on one order. An unreadable written verdict is asked for once more."""
        if self.method == "labels":
            return read_labels(self._reply(label_request(self.rubric, quoted), quoted).top_logprobs)
        request = written_request(self.rubric, quoted, self.max_tokens, self.schema)
        kept = self._reply(request, quoted)
        reading = read_written(kept.text, kept.finish_reason)
        if reading.verdict is not None:
            return reading
        kept = self._reply(_asked_again(request, kept.text, reading.reason), quoted)
        return read_written(kept.text, kept.finish_reason)

    def _reply(self, request: Request, quoted: Quoted) -> Kept:
        """The reply that is kept for this content, or a new one, which is kept at once."""
        key = self._content(request)
        kept = self.log.results.get(key)
        # A verdict that did not fit into a smaller limit is worth another try.
        if kept and not (kept.finish_reason == "length" and kept.max_tokens < request.max_tokens):
            self.models.add(kept.model)
            return kept
        with self.lock:
            if self.ask is None or (self.max_calls is not None and self.calls.sent >= self.max_calls):
                raise NotAsked
            self.calls.sent += 1
        reply = self.ask(request)
        if isinstance(reply, Failure):
            raise NoReply(reply.reason)
        likely = worth_keeping(reply.top_logprobs, LABEL_TOKENS)
        kept = Kept(reply.text, reply.finish_reason, likely, request.max_tokens, reply.model)
        with self.lock:
            self.calls.add(reply)
            self.log.append(key, self._row(kept, quoted), kept)
            self.models.add(kept.model)
        return kept

    def _content(self, request: Request) -> str:
        """The key of a reply: the judge, and the messages, which have rubric, texts and order in them."""
        asked = [self.key, self.method, list(request.messages)]
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]

    def _row(self, kept: Kept, quoted: Quoted) -> dict[str, Any]:
        """The line of a reply: who stood where, what was said, and for people what it was read as."""
        labels = self.method == "labels"
        reading = read_labels(kept.top_logprobs) if labels else read_written(kept.text, kept.finish_reason)
        return {
            "prompt": conversation(quoted.prompt),
            "A": quoted.a,
            "B": quoted.b,
            "judge": self.key,
            "rubric": self.rubric.name,
            "method": self.method,
            "verdict": reading.verdict,
            "reason": reading.reason,
            "reply": kept.text,
            "finish_reason": kept.finish_reason,
            "top_logprobs": kept.top_logprobs,
            "max_tokens": kept.max_tokens,
            "model": kept.model,
        }


def label_request(rubric: Rubric, quoted: Quoted) -> Request:
    """Asks for one letter and its log-probabilities."""
    return Request(judge_messages(rubric, quoted, LABEL_FORM), 1, top_logprobs=LABEL_TOKENS)


def written_request(rubric: Rubric, quoted: Quoted, max_tokens: int, schema: bool) -> Request:
    """Asks for a reason and a verdict; the form is in the words of the request, and in a schema if wanted."""
    messages = judge_messages(rubric, quoted, WRITTEN_FORM)
    return Request(messages, max_tokens, schema=SCHEMA if schema else None)


def _asked_again(request: Request, reply: str, why: str) -> Request:
    again = f"Your reply cannot be used: {why}. {WRITTEN_FORM} Keep the reason short."
    shown = without_control_marks(reply[:_REPEATED].strip()) or "..."  # some servers refuse a turn of blanks
    said = [{"role": "assistant", "content": shown}, {"role": "user", "content": again}]
    return request._replace(messages=[*request.messages, *said])


def kept_reply(row: dict[str, Any], where: str) -> tuple[str, Kept]:
    """One line of verdicts.jsonl; verdicts are read from the raw reply again.

    Raises:
        DpoError: the line is not one of `judge`.
    """
    try:
        likely = tuple((str(token), float(value)) for token, value in row["top_logprobs"])
        kept = Kept(
            str(row["reply"]), row["finish_reason"], likely, int(row["max_tokens"]), str(row["model"])
        )
        return str(row["key"]), kept
    except (KeyError, TypeError, ValueError):
        raise DpoError(
            "is not a line of this version of judge",
            where=where,
            hint="remove the line: judge then asks for this verdict again",
        ) from None


def verdicts_log(folder: Path, settings: dict[str, Any]) -> AppendLog:
    """The log of all replies in a folder; replies of several judges and rubrics can be in one log."""
    return AppendLog(
        folder / "verdicts.jsonl",
        settings,
        {},
        writer="judge",
        holds="verdicts",
        setting="judge.output",
        beside=("train.jsonl", "valid.jsonl"),
    )
