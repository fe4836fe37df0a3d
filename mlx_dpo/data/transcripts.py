"""Transcripts as in Anthropic's HH data: one text with "Human:" and "Assistant:" before each turn.

Here they become two conversations; own_format.py splits these into one prompt and two answers.
"""

import re
from typing import Any

from .format_registry import TEXT, NoPairError, Row, row_format

_TURN = re.compile(r"(?:^\s*|(?:\r?\n){2})(Human|Assistant):", re.ASCII)
_ROLES = {"Human": "user", "Assistant": "assistant"}

DIFFER = "the conversations differ before the last answer"


def is_transcript(value: Any) -> bool:
    """Whether a value is a text that begins with "Human:" and has an "Assistant:" after it."""
    if not isinstance(value, str) or not value.lstrip().startswith("Human:"):
        return False
    return any(match[1] == "Assistant" for match in _TURN.finditer(value))


def turns_of(text: str) -> list[dict[str, str]]:
    """The turns of a transcript as messages, white space stripped.

    Two turns of one speaker in a row become one turn, with a blank line between: templates want turns of the
    user and of the assistant to alternate.
    """
    parts = _TURN.split(text)
    turns: list[dict[str, str]] = []
    for speaker, said in zip(parts[1::2], parts[2::2], strict=True):
        role, said = _ROLES[speaker], said.strip()
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] = "\n\n".join(filter(None, (turns[-1]["content"], said)))
        else:
            turns.append({"role": role, "content": said})
    return turns


def prompt_of(text: str) -> list[dict[str, str]]:
    """The messages of a transcript that ends with an empty "Assistant:", as prompts do."""
    turns = turns_of(text)
    return turns[:-1] if turns[-1] == {"role": "assistant", "content": ""} else turns


def _whole(row: Row) -> bool:
    return is_transcript(row["chosen"]) and is_transcript(row["rejected"])


@row_format("HH-RLHF transcripts", {"chosen": TEXT, "rejected": TEXT}, test=_whole)
def hh(row: Row) -> list[Row]:
    """The shared turns are the prompt, the last turn of each transcript is an answer."""
    chosen, rejected = turns_of(row["chosen"]), turns_of(row["rejected"])
    if chosen[:-1] != rejected[:-1] or not (chosen[-1]["role"] == rejected[-1]["role"] == "assistant"):
        raise NoPairError(DIFFER)
    return [{"chosen": chosen, "rejected": rejected}]


@row_format(
    "HH-RLHF transcripts with separate answers",
    {"prompt": TEXT, "chosen": TEXT, "rejected": TEXT},
    "response",
    test=lambda row: is_transcript(row["prompt"]) and not _whole(row),
)
def hh_prompt(row: Row) -> list[Row]:
    """The prompt is a transcript; the answers are texts, as in Dahoas/full-hh-rlhf."""
    return [{"prompt": prompt_of(row["prompt"]), "chosen": row["chosen"], "rejected": row["rejected"]}]
