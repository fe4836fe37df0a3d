"""Rows that have a prompt and no answer."""

import re
from typing import Any

from ..errors import DpoError
from ..records import Prompt
from .known_formats import RowFormat
from .own_format import to_curated
from .pair_formats import asked

PROMPT_COLUMNS = ("prompt", "question", "instruction", "input", "messages")
_ANSWER = re.compile(
    "answer|completion|response|chosen|reject|output|target|solution|repl(y|ies)|conversation|label",
    re.IGNORECASE,
)


def is_prompt(row: dict[str, Any]) -> bool:
    """Whether a row has a prompt, and no column that could be an answer."""
    turns = row.get("messages")
    if isinstance(turns, list) and turns and isinstance(turns[-1], dict):
        return turns[-1].get("role") in ("user", "tool")
    return any(name in row for name in ("prompt", "question", "instruction")) and not any(
        map(_ANSWER.search, row)
    )


def to_prompt(row: dict[str, Any], where: str, form: RowFormat | None = None) -> list[Prompt]:
    """The prompt of a row, in a list.

    It is a prompt, question, instruction (with input), or messages that end with a user turn.

    Raises:
        DpoError: the row has an answer; and as `formats.to_curated`.
    """
    found = next((name for name, value in row.items() if _ANSWER.search(name) and value), None)
    if form or found:
        raise DpoError(
            f"has {found!r}, but the first row has no answer" if found else f"has answers: {form.name}",
            where=where,
            hint="write an answer in every row, or in none",
            code="not-one-answer",
        )
    name = next((name for name in PROMPT_COLUMNS if name in row), "prompt")
    given = dict(row)
    if name == "messages":
        given["prompt"] = given.pop(name)
    elif name == "instruction":
        given["prompt"] = asked({name: given.pop(name, None) for name in ("instruction", "input")})
    own = to_curated({**given, "answer": "an answer"}, where)
    return [Prompt(own.prompt, own.id, where, own.tools)]
