"""Asks the judge about two answers in both orders; every reply is kept, and none is asked for twice."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..chat_protocol import Request
from ..records import Message, Tools
from ..storage.append_log import AppendLog
from .completions import Completions
from .kept_replies import LABEL_TOKENS, Kept, KeptReplies, NoReply, NotAsked, asked_again
from .prompts import LABEL_FORM, WRITTEN_FORM, Quoted, Rubric, conversation, judge_messages
from .ranking import best_and_worst
from .verdicts import SCHEMA, Comparison, Reading, compared, read_labels, read_written


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


@dataclass(kw_only=True)
class Judge(KeptReplies):
    """A judge with what it is asked by.

    Args:
        method: "labels" or "written".
        schema: send the schema of a written verdict too.
    """

    rubric: Rubric
    method: str
    max_tokens: int
    tie_band: float
    schema: bool = False

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
        kept = self._reply(
            asked_again(request, kept.text, reading.reason, f"{WRITTEN_FORM} Keep the reason short."), quoted
        )
        return read_written(kept.text, kept.finish_reason)

    def _reply(self, request: Request, quoted: Quoted) -> Kept:
        return self.reply(request, self.method, lambda kept: self._row(kept, quoted))

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
            **kept.as_row(),
        }


def label_request(rubric: Rubric, quoted: Quoted) -> Request:
    """Asks for one letter and its log-probabilities."""
    return Request(judge_messages(rubric, quoted, LABEL_FORM), 1, top_logprobs=LABEL_TOKENS)


def written_request(rubric: Rubric, quoted: Quoted, max_tokens: int, schema: bool) -> Request:
    """Asks for a reason and a verdict; the form is in the words of the request, and in a schema if wanted."""
    messages = judge_messages(rubric, quoted, WRITTEN_FORM)
    return Request(messages, max_tokens, schema=SCHEMA if schema else None)


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
