"""Rows that have a prompt and no answer."""

import re
from typing import Any

from ..records import Prompt
from .formats import to_curated

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


def to_prompt(row: dict[str, Any], where: str) -> Prompt:
    """A prompt: prompt, question, instruction (with input), or messages that end with a user turn.

    A column for an answer is not used.

    Raises:
        DpoError: as `formats.to_curated`.
    """
    name = next((name for name in PROMPT_COLUMNS if name in row), "prompt")
    given = {key: value for key, value in row.items() if not _ANSWER.search(key)}
    if name == "messages":
        given["prompt"] = given.pop(name)
    elif name == "instruction":
        texts = [given.pop("instruction"), given.pop("input", None)]
        given["prompt"] = (
            "\n\n".join(texts) if all(isinstance(text, str) and text.strip() for text in texts) else texts[0]
        )
    own = to_curated({**given, "answer": "an answer"}, where)
    return Prompt(own.prompt, own.id, where, own.tools)
