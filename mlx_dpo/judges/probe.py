"""A question with a known answer, asked before any verdict is paid for: what a judge can do."""

from collections.abc import Callable
from typing import NamedTuple

from ..endpoint import Failure, Reply, Request
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
    """What the probe found: the method to use, whether a schema shapes the reply, the model that replied."""

    method: str
    schema: bool
    model: str
    text: str


def probe(ask: Ask, method: str, max_tokens: int, *, schemas: bool = True) -> Probe:
    """Ask for the better of a right and a nonsensical answer in both orders, by the method or by both.

    Args:
        method: "auto" takes labels if the judge gives log-probabilities and finds the right answer by them.
        schemas: whether to find out if a schema shapes the reply; a local judge has none.

    Raises:
        DpoError: the judge does not reply, or prefers the wrong answer or none.
    """
    told, model = [], ""
    if method != "written":
        replies = [_reply(ask, label_request(_RUBRIC, quoted)) for quoted in _orders()]
        model = replies[0].model
        readings = [read_labels(reply.top_logprobs) for reply in replies]
        given = all(reply.top_logprobs for reply in replies)
        told.append(f"log-probabilities: {'yes' if given else 'no'}")
        if _right(readings):
            return Probe("labels", False, model, _text([*told, _told(readings)]))
        if method == "labels":
            raise _broken(readings, "labels", [reply.text for reply in replies])
        told.append(f"by letters: {_told(readings)}")
    shaped = schemas and _honours_schema(ask)
    if schemas:
        told.append(f"schemas: {'yes' if shaped else 'no, the form of the reply is only asked for in words'}")
    replies = [_reply(ask, written_request(_RUBRIC, quoted, max_tokens, shaped)) for quoted in _orders()]
    readings = [read_written(reply.text, reply.finish_reason) for reply in replies]
    if not _right(readings):
        raise _broken(readings, "written", [reply.text for reply in replies])
    return Probe("written", shaped, model or replies[0].model, _text([*told, _told(readings)]))


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


def _right(readings: list[Reading]) -> bool:
    return compared(_RIGHT, _WRONG, *readings).outcome == FIRST


def _told(readings: list[Reading]) -> str:
    if any(reading.verdict is None for reading in readings):
        return next(reading.reason for reading in readings if reading.verdict is None)
    if _right(readings):
        same = [reading.verdict for reading in readings] == ["A", "B"]
        return f"known answer found {'in both orders' if same else 'on average of both orders'}"
    said = " and ".join(str(reading.verdict) for reading in readings)
    return f"with the right answer first and then second, it said {said}"


def _text(told: list[str]) -> str:
    return f"probe: {'; '.join(told)}"


def _broken(readings: list[Reading], method: str, replies: list[str]) -> DpoError:
    unread = any(reading.verdict is None for reading in readings)
    other = "written" if method == "labels" else "labels"
    return DpoError(
        f"the judge fails a question with a known answer ({method}): {_told(readings)}; "
        f"it replied {' and '.join(quoted(reply) for reply in replies)}",
        where="judge.model",
        hint=f"try judge.method={other}, or a larger judge.max_tokens, or another judge"
        if unread
        else "choose another judge",
        code="judge-broken",
    )
