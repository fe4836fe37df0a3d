"""Formats with two answers and a vote, a label or the number of the better one; ties make no pair."""

import json
from contextlib import suppress
from typing import Any

from .format_registry import ANY, INTEGER, TEXT, TURNS, NoPairError, Row, joined, row_format
from .pair_formats import TIE
from .transcripts import DIFFER

_FIRST, _SECOND = "first", "second"


def _pair(prompt: Any, first: Any, second: Any, better: str | None) -> list[Row]:
    """A pair whose chosen answer is the `better` one, first or second.

    Raises:
        NoPairError: neither is better.
    """
    if better not in (_FIRST, _SECOND):
        raise NoPairError(TIE)
    chosen, rejected = (first, second) if better == _FIRST else (second, first)
    return [{"prompt": prompt, "chosen": chosen, "rejected": rejected}]


@row_format(
    "Stanford Human Preferences",
    {"history": TEXT, "human_ref_A": TEXT, "human_ref_B": TEXT, "labels": INTEGER},
    names={"prompt": "history"},
)
def shp(row: Row) -> list[Row]:
    """`labels` is 1 where answer A is preferred, 0 where B is."""
    better = {1: _FIRST, 0: _SECOND}.get(row["labels"])
    return _pair(row["history"], row["human_ref_A"], row["human_ref_B"], better)


@row_format(
    "PKU-SafeRLHF",
    {"prompt": TEXT, "response_0": TEXT, "response_1": TEXT, "better_response_id": INTEGER},
)
def pku(row: Row) -> list[Row]:
    """`better_response_id` says which response is more helpful; `safer_response_id` is not used."""
    better = {0: _FIRST, 1: _SECOND}.get(row["better_response_id"])
    return _pair(row["prompt"], row["response_0"], row["response_1"], better)


@row_format(
    "Chatbot Arena battles",
    {"conversation_a": TURNS, "conversation_b": TURNS, "winner": TEXT},
    names={"chosen": "conversation_a", "rejected": "conversation_b"},
)
def arena(row: Row) -> list[Row]:
    """Two conversations with one winner; only the last answer may differ."""
    better = {"model_a": _FIRST, "model_b": _SECOND}.get(row["winner"])
    return _conversations(row["conversation_a"], row["conversation_b"], better)


def _conversations(first: list[Row], second: list[Row], better: str | None) -> list[Row]:
    (own,) = _pair(None, first, second, better)
    if first[:-1] != second[:-1]:
        raise NoPairError(DIFFER)
    return [{name: own[name] for name in ("chosen", "rejected")}]


@row_format(
    "Chatbot Arena votes",
    {"prompt": ANY, "response_a": ANY, "response_b": ANY, "winner_model_a": ANY, "winner_model_b": ANY},
    "winner_tie",
)
def arena_votes(row: Row) -> list[Row]:
    """The form of the arena's contest: prompt and responses are lists of turns, written as JSON text."""
    votes = [
        str(row[name]).strip().lower() in ("1", "1.0", "true")
        for name in ("winner_model_a", "winner_model_b")
    ]
    better = {(True, False): _FIRST, (False, True): _SECOND}.get(tuple(votes))
    asked, first, second = (_listed(row[name]) for name in ("prompt", "response_a", "response_b"))
    return _conversations(_turns(asked, first), _turns(asked, second), better)


def _listed(value: Any) -> Any:
    with suppress(ValueError, RecursionError):
        value = json.loads(value) if isinstance(value, str) else value
    return value if isinstance(value, list) else [value]


def _turns(asked: list[Any], answered: list[Any]) -> list[Row]:
    if len(asked) != len(answered):
        raise NoPairError("prompts and responses differ in number")
    roles = ("user", "assistant")
    return [
        {"role": role, "content": text}
        for exchange in zip(asked, answered, strict=True)
        for role, text in zip(roles, exchange, strict=True)
    ]


_VOTES = ("annotator1", "annotator2", "annotator3")


@row_format(
    "PandaLM votes",
    {"instruction": TEXT, "response1": TEXT, "response2": TEXT, **dict.fromkeys(_VOTES, INTEGER)},
    "input",
    names={"prompt": "instruction"},
)
def pandalm(row: Row) -> list[Row]:
    """Three people each vote for answer 1, answer 2 or a tie (0); the majority decides."""
    votes = [row[name] for name in _VOTES]
    majority = next((vote for vote in (1, 2) if votes.count(vote) * 2 > len(votes)), None)
    better = {1: _FIRST, 2: _SECOND}.get(majority)
    prompt = joined(row["instruction"], row.get("input"))
    return _pair(prompt, row["response1"], row["response2"], better)
