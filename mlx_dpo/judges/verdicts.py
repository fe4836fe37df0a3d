"""From replies to verdicts, and from verdicts in both orders to the outcome of a comparison."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from .json_replies import UnreadableReplyError, json_of

A, B, TIE = "A", "B", "tie"
FIRST, SECOND = "first", "second"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"reason": {"type": "string"}, "verdict": {"type": "string", "enum": [A, B, TIE]}},
    "required": ["reason", "verdict"],
    "additionalProperties": False,
}
LEAST_MASS = 0.1
"""Smallest probability of both letters together: below it, the judge wanted to write something else."""
_ROUNDING = 1e-3
"""How far above 0 rounding may bring a log-probability."""

_SENTENCE_ENDS = re.compile(r"[.!?\n]+\s*")
_NAMED = {"a is better": A, "b is better": B, "neither is better": TIE}


class Reading(NamedTuple):
    """One reply: which of the answers shown as A and B is better.

    `verdict`: "A", "B", "tie", or None if the reply cannot be read. `reason`: the judge's, or why the reply
    cannot be read. `chance`: probability that A is better, by the log-probabilities of the letters.
    """

    verdict: str | None
    reason: str = ""
    chance: float | None = None


class Comparison(NamedTuple):
    """Two answers judged in both orders: `swapped` is the reading with the second answer shown as A.

    `outcome`: "first", "second", "tie", or None if a reading is missing.
    """

    first: str
    second: str
    forward: Reading
    swapped: Reading
    outcome: str | None


def read_written(text: str, finish_reason: str | None) -> Reading:
    """The verdict of a JSON object {"reason": ..., "verdict": "A" | "B" | "tie"}, maybe in a code fence.

    Nothing is guessed. Other text around it, another verdict, a reason that ends by naming another answer,
    and a reply that was cut off are unreadable. Reasoning up to </think> is left out.
    """
    try:
        reply = json_of(text, finish_reason)
    except UnreadableReplyError as error:
        return Reading(None, str(error))
    if not isinstance(reply, dict) or not isinstance(reply.get("reason"), str):
        return Reading(None, "the reply has no reason")
    if reply.get("verdict") not in (A, B, TIE):
        return Reading(None, "the verdict is not A, B or tie")
    if named_by(reply["reason"]) not in (None, reply["verdict"]):
        return Reading(None, "the reason names another answer than the verdict")
    return Reading(reply["verdict"], reply["reason"])


def named_by(reason: str) -> str | None:
    """The verdict in the last sentence of a reason; None if it is not in the words that were asked for.

    "It is shorter. A is better." -> "A"; "A is better written." -> None
    """
    last = _SENTENCE_ENDS.split(reason.strip(" .!\"'*\n"))[-1]
    return _NAMED.get(last.strip(" \"'*").casefold().replace("answer ", ""))


def read_labels(top_logprobs: Sequence[tuple[str, float]]) -> Reading:
    """The verdict of the likeliest first tokens: P(A) / (P(A) + P(B)), white space around letters ignored."""
    if any(not logprob <= _ROUNDING for _, logprob in top_logprobs):  # also where it is not a number
        return Reading(None, "the log-probabilities are wrong: one is above 0 or not a number")
    mass = dict.fromkeys((A, B), 0.0)
    for token, logprob in top_logprobs:
        if (letter := _letter(token)) in mass:
            mass[letter] += math.exp(logprob)
    if not top_logprobs:
        return Reading(None, "the reply has no log-probabilities")
    if (both := mass[A] + mass[B]) < LEAST_MASS:
        return Reading(None, f"A and B together have a probability below {LEAST_MASS:g}")
    chance = mass[A] / both
    return Reading(A if chance > 0.5 else B if chance < 0.5 else TIE, "", chance)


def worth_keeping(top_logprobs: Sequence[tuple[str, float]], count: int) -> tuple[tuple[str, float], ...]:
    """The first `count` tokens, and the letters further down."""
    return (*top_logprobs[:count], *(one for one in top_logprobs[count:] if _letter(one[0]) in (A, B)))


def _letter(token: str) -> str:
    """A token without the white space before it, also as tokenizers write it."""
    return token.strip(" \n\t\u2581\u0120")


def compared(
    first: str, second: str, forward: Reading, swapped: Reading, tie_band: float = 0.0
) -> Comparison:
    """Two answers with their readings in both orders, and the outcome.

    By log-probabilities, P = (P(first as A) + 1 - P(second as A)) / 2 decides; it is a tie if P is within
    `tie_band` of one half. Written verdicts must agree; else the outcome is a tie.
    """
    outcome: str | None
    if forward.verdict is None or swapped.verdict is None:
        outcome = None
    elif forward.chance is not None and swapped.chance is not None:
        lead = (forward.chance - swapped.chance) / 2
        outcome = TIE if abs(lead) <= tie_band else FIRST if lead > 0 else SECOND
    else:
        said = _preferred(forward)
        outcome = said if said == _turned(_preferred(swapped)) else TIE
    return Comparison(first, second, forward, swapped, outcome)


def _preferred(reading: Reading) -> str:
    return {A: FIRST, B: SECOND}.get(reading.verdict or "", TIE)


def _turned(outcome: str) -> str:
    return {FIRST: SECOND, SECOND: FIRST}.get(outcome, TIE)


class Share(NamedTuple):
    """`count` of `n`."""

    count: int
    n: int

    @property
    def rate(self) -> float | None:
        """None of none."""
        return self.count / self.n if self.n else None


def share(values: Iterable[bool]) -> Share:
    """How many are true, of all."""
    values = list(values)
    return Share(sum(values), len(values))


def consistency(comparisons: Iterable[Comparison]) -> Share:
    """Comparisons with the same verdict in both orders, of those that were readable in both."""
    return share(
        _preferred(c.forward) == _turned(_preferred(c.swapped)) for c in comparisons if c.outcome is not None
    )


def first_position(comparisons: Iterable[Comparison]) -> Share:
    """Readings that prefer the answer shown first, of those that prefer one."""
    readings = [reading for c in comparisons for reading in (c.forward, c.swapped)]
    return share(reading.verdict == A for reading in readings if reading.verdict in (A, B))


def longer_wins(comparisons: Iterable[Comparison]) -> Share:
    """Decided comparisons that the longer answer won, by characters, of those with different lengths."""
    return share(
        (len(c.first) > len(c.second)) == (c.outcome == FIRST)
        for c in comparisons
        if c.outcome in (FIRST, SECOND) and len(c.first) != len(c.second)
    )
