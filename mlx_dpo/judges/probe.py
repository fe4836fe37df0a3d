"""A question with a known answer, asked before any verdict is paid for: what a judge can do."""

from collections.abc import Callable
from typing import NamedTuple

from ..chat_protocol import Failure, Reply, Request
from ..errors import DpoError, quoted
from .asking import label_request, written_request
from .prompts import Quoted, Rubric
from .verdicts import FIRST, SCHEMA, Reading, compared, read_labels, read_written

_RUBRIC = Rubric("probe", "Criterion: the better answer is true and answers the question.")
_QUESTION = ({"role": "user", "content": "Which city is the capital of France? Answer in one sentence."},)
_RIGHT, _WRONG = "The capital of France is Paris.", "Blue. Seven chairs sing the carpet."
_NOT_JSON = [{"role": "user", "content": "Say hello in one short sentence."}]

Ask = Callable[[Request], Reply | Failure]


class Probe(NamedTuple):
    """What the probe found.

    `method`: the one to use. `schema`: whether a schema shapes the replies. `model`: the name in the replies.
    `text`: the findings for people. `fault`: what to raise about a judge that fails; None if it does not.
    """

    method: str
    schema: bool
    model: str
    text: str
    fault: DpoError | None = None


def probe(ask: Ask, method: str, max_tokens: int, tie_band: float, *, schemas: bool = True) -> Probe:
    """Ask for the better of a right and a nonsensical answer in both orders, by the method or by both.

    Args:
        method: "auto" takes labels if the judge gives log-probabilities and finds the right answer by them,
            else a written verdict.
        tie_band: as for the comparisons; a tie is not the right answer.
        schemas: whether to find out if a schema shapes the replies; a local judge has none.

    Raises:
        DpoError: the judge does not reply.
    """
    told, shaped = [], schemas and _honours_schema(ask)
    if schemas:
        told.append(f"schemas: {'yes' if shaped else 'no, the form of a reply is only asked for in words'}")
    letters = False
    if method != "written":
        replies = [_reply(ask, label_request(_RUBRIC, quoted)) for quoted in _orders()]
        readings = [read_labels(reply.top_logprobs) for reply in replies]
        letters = all(reply.top_logprobs for reply in replies)
        told.append(f"log-probabilities: {'yes' if letters else 'no'}")
        told.append(f"by letters: {_told(readings, tie_band)}")
        if method == "labels" or _right(readings, tie_band):
            return _found("labels", False, told, readings, replies, tie_band, letters)
    replies = [_reply(ask, written_request(_RUBRIC, quoted, max_tokens, shaped)) for quoted in _orders()]
    readings = [read_written(reply.text, reply.finish_reason) for reply in replies]
    told.append(f"in writing: {_told(readings, tie_band)}")
    return _found("written", shaped, told, readings, replies, tie_band, letters)


def _found(
    method: str,
    schema: bool,
    told: list[str],
    readings: list[Reading],
    replies: list[Reply],
    tie_band: float,
    letters: bool,
) -> Probe:
    right, said = _right(readings, tie_band), _told(readings, tie_band)
    fault = None if right else _broken(said, method, replies, _remedy(readings, method, replies, letters))
    return Probe(method, schema, replies[0].model, f"probe: {'; '.join(told)}", fault)


def _orders() -> tuple[Quoted, Quoted]:
    return Quoted(_QUESTION, _RIGHT, _WRONG), Quoted(_QUESTION, _WRONG, _RIGHT)


def _reply(ask: Ask, request: Request) -> Reply:
    reply = ask(request)
    if isinstance(reply, Failure):
        raise DpoError(
            f"the judge does not answer: {reply.reason}", hint="look at the server, or choose another judge"
        )
    return reply


def _honours_schema(ask: Ask) -> bool:
    """Whether a schema turns the answer to a plain question into JSON."""
    reply = _reply(ask, Request(_NOT_JSON, 100, schema=SCHEMA))
    return read_written(reply.text, reply.finish_reason).verdict is not None


def _right(readings: list[Reading], tie_band: float) -> bool:
    return compared(_RIGHT, _WRONG, *readings, tie_band).outcome == FIRST


def _told(readings: list[Reading], tie_band: float) -> str:
    if any(reading.verdict is None for reading in readings):
        return next(reading.reason for reading in readings if reading.verdict is None)
    if _right(readings, tie_band):
        same = [reading.verdict for reading in readings] == ["A", "B"]
        return f"known answer found {'in both orders' if same else 'on average of both orders'}"
    said = " and ".join(str(reading.verdict) for reading in readings)
    return f"with the right answer first and then second, it said {said}"


def _remedy(readings: list[Reading], method: str, replies: list[Reply], letters: bool) -> str:
    """What may help; `letters`: the judge gives log-probabilities, by which it can be asked too."""
    other = "choose another judge, such as a larger model of another family"
    if all(reading.verdict for reading in readings):
        return other
    tries = ["judge.method=written"] if method == "labels" else []
    if method == "written" and any(reply.finish_reason == "length" for reply in replies):
        tries.append("a larger judge.max_tokens")
    if method == "written" and letters:
        tries.append("judge.method=labels")
    return f"try {' or '.join(tries)}, or {other}" if tries else other


def _broken(said: str, method: str, replies: list[Reply], remedy: str) -> DpoError:
    return DpoError(
        f"the judge fails a question with a known answer ({method}): {said}; "
        f"it replied {' and '.join(quoted(reply.text) for reply in replies)}",
        where="judge.model",
        hint=f"{remedy}; --set judge.guard=warn goes on all the same",
        code="judge-broken",
    )
