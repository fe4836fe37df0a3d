"""Evaluations of promptfoo: the answers to one prompt become one row with scored answers."""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ..storage.jsonl import parse_line
from .json_rows import NumberedRows
from .row_format import number_of

_KEYS = {"promptIdx", "testIdx", "prompt", "response"}


def is_result(row: Any) -> bool:
    """Whether this is a result of an evaluation: one answer to one test."""
    return isinstance(row, Mapping) and row.keys() >= _KEYS


def grouped(results: NumberedRows, name: str) -> NumberedRows:
    """Results with the same prompt as one row: {prompt, answers: [{answer, score}]}, numbered as the first.

    All texts are in memory: promptfoo writes an evaluation as one text, of at most half a gigabyte.

    Raises:
        DpoError: a result is not JSON.
    """
    groups: dict[str, tuple[int, list[dict[str, Any]]]] = {}
    for line, text in results:
        result = parse_line(text, f"{name}:{line}")
        if not is_result(result) or result.get("error"):
            continue
        asked, response = result["prompt"], result["response"]
        prompt = asked.get("raw") if isinstance(asked, dict) else asked
        answer = response.get("output") if isinstance(response, dict) else response
        if isinstance(prompt, str) and isinstance(answer, str) and answer.strip():
            _, answers = groups.setdefault(prompt, (line, []))
            answers.append({"answer": answer, "score": _score(result)})
    for prompt, (line, answers) in groups.items():
        row = {"prompt": _messages(prompt), "answers": answers}
        yield line, json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass")


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
