"""What judging will cost at most, before any request is sent."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ..console import plural
from .asking import Judge, label_request, written_request
from .completions import Completions
from .config import JudgeConfig
from .kept_replies import NotAsked
from .prompts import Quoted
from .ranking import best_and_worst
from .verdicts import FIRST, compared

CHARACTERS_PER_TOKEN = 4
_WRITTEN_TOKENS = 80
"""Tokens of a reason and a verdict, about."""


@dataclass(frozen=True)
class Estimate:
    """Requests that are still to be sent at most, about how many tokens they have, and their price if known.

    Requests that repeat an unreadable verdict, and the few of the probe, are not included.
    """

    noun: ClassVar[str] = "prompt"
    rows: int
    requests: int
    prompt_tokens: int
    completion_tokens: int
    price: float | None

    def __str__(self) -> str:
        price = "" if self.price is None else f", price about {money(self.price)}"
        return (
            f"{plural(self.rows, self.noun)}: at most {plural(self.requests, 'request')} to send, about "
            f"{self.prompt_tokens:,} prompt tokens and {self.completion_tokens:,} tokens written{price}"
        )


def money(price: float) -> str:
    """A price with two decimals; a small one with two digits: 1,234.50, 0.0012."""
    return f"{price:,.2f}" if price >= 1 or not price else f"{price:.2g}"


def estimate(judge: Judge, rows: Iterable[Completions], settings: JudgeConfig) -> Estimate:
    """The cost of the verdicts that are not kept yet; ties only save comparisons.

    Args:
        judge: its `ask` is None.
    """
    count = requests = characters = 0

    for row in rows:
        count += 1

        def outcome(first: int, second: int, row: Completions = row) -> str | None:
            nonlocal requests, characters
            readings = []
            for a, b in ((first, second), (second, first)):
                quoted = Quoted(row.prompt, row.answers[a], row.answers[b], row.tools)
                try:
                    readings.append(judge.reading(quoted))
                except NotAsked:
                    requests += 1
                    characters += _characters(judge, quoted)
            if len(readings) < 2:
                return FIRST
            return compared(row.answers[first], row.answers[second], *readings, judge.tie_band).outcome

        if len(row.answers) > 1:
            best_and_worst(len(row.answers), outcome)
    prompt = characters // CHARACTERS_PER_TOKEN
    written = requests * (1 if judge.method == "labels" else min(_WRITTEN_TOKENS, judge.max_tokens))
    return Estimate(count, requests, prompt, written, settings.price(prompt, written))


def _characters(judge: Judge, quoted: Quoted) -> int:
    labels = judge.method == "labels"
    request = (
        label_request(judge.rubric, quoted)
        if labels
        else written_request(judge.rubric, quoted, judge.max_tokens, False)
    )
    return len(json.dumps(request.messages, ensure_ascii=False))
