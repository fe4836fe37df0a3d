"""Evaluations of promptfoo: the answers to one prompt become one row with scored answers."""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ..errors import DpoError
from ..storage.jsonl import parse_line
from .format_registry import number_of
from .json_rows import NumberedRows, row_text
from .messages import kind_of

_KEYS = {"promptIdx", "testIdx", "prompt", "response"}


def is_result(row: Any) -> bool:
    """Whether this is a result of an evaluation: one answer to one test."""
    return isinstance(row, Mapping) and row.keys() >= _KEYS


def grouped(results: NumberedRows, name: str) -> NumberedRows:
    """Results with the same prompt as one row: {prompt, answers: [{answer, score}]}, numbered as the first.

    Results in which the model failed are left out: they have no answer. All texts are in memory: promptfoo
    writes an evaluation as one text, of at most half a gigabyte.

    Raises:
        DpoError: a row is not JSON or not a result, or a prompt or an answer is not text.
    """
    groups: dict[str, tuple[int, list[dict[str, Any]]]] = {}
    for line, text in results:
        where = f"{name}:{line}"
        result = parse_line(text, where)
        if not is_result(result):
            what, hint = "is not a result of promptfoo", "put other rows into a separate file"
            raise DpoError(what, where=where, hint=hint, code="other-format")
        asked, response = result["prompt"], result["response"]
        prompt = asked.get("raw") if isinstance(asked, dict) else asked
        answer = response.get("output") if isinstance(response, dict) else response
        if answer is None or result.get("error"):
            continue
        for key, value in (("prompt.raw", prompt), ("response.output", answer)):
            if not isinstance(value, str):
                what, hint = f"'{key}' must be text, got {kind_of(value)}", "remove this result"
                raise DpoError(what, where=where, hint=hint, code="wrong-type")
        _, answers = groups.setdefault(prompt, (line, []))
        answers.append({"answer": answer, "score": _score(result)})
    for prompt, (line, answers) in groups.items():
        yield line, row_text({"prompt": _messages(prompt), "answers": answers})


def _score(result: Mapping[str, Any]) -> float:
    """The score of a result, in which a person's rating counts; without one, whether it passed."""
    graded = result.get("gradingResult")
    for held in (result, graded if isinstance(graded, dict) else {}):
        if (score := number_of(held.get("score"))) is not None:
            return score
    return float(bool(result.get("success")))


def _messages(prompt: str) -> Any:
    """The messages of a prompt that is written as JSON; the text itself otherwise."""
    with suppress(ValueError, RecursionError):
        value = json.loads(prompt)
        if (
            isinstance(value, list)
            and value
            and all(isinstance(turn, dict) and "role" in turn for turn in value)
        ):
            return value
    return prompt
