"""One dataclass per kind of row."""

from dataclasses import dataclass, field
from typing import Any

Message = dict[str, str]
"""{"role": "system" | "user" | "assistant", "content": text}"""


@dataclass(frozen=True)
class Curated:
    """A question and the answer we want: `prompt` messages and `answer` text; `cut`: it was cut off."""

    prompt: tuple[Message, ...]
    answer: str
    id: str
    where: str = ""
    cut: bool = False


@dataclass(frozen=True)
class Preference:
    """A prompt with a chosen and a rejected completion, all text.

    `chosen_cut`, `rejected_cut`: the answer was cut off where it was made; no end of turn is scored after it.
    """

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    id: str
    where: str = ""
    meta: dict[str, Any] = field(default_factory=dict)
    chosen_cut: bool = False
    rejected_cut: bool = False


def prompt_text(prompt: tuple[Message, ...]) -> str:
    """The prompt on one line, for people: the last user turn, cut at 70 characters."""
    text = " ".join(prompt[-1]["content"].split())
    return text if len(text) <= 70 else text[:69] + "…"
