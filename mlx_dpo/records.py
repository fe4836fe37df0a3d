"""One dataclass per kind of row."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

Message = dict[str, Any]
"""One turn: {"role": "system" | "user" | "assistant" | "tool", "content": text}.

An assistant turn may have `tool_calls` and `reasoning_content`, a tool turn `name` and `tool_call_id`.
"""

Tools = tuple[dict[str, Any], ...]
"""Definitions of the tools that a prompt offers, as chat templates take them."""


class Answer(NamedTuple):
    """An assistant turn, and whether it was cut off when it was generated."""

    turn: Message
    cut: bool = False


def answer_of(text: str, *, cut: bool = False) -> Answer:
    """An answer that is only text."""
    return Answer({"role": "assistant", "content": text}, cut)


@dataclass(frozen=True)
class Curated:
    """A question and the answer we want: `prompt` messages and `answer` text; `cut`: it was cut off.

    `turn` is the answer's message if it is more than text.
    """

    prompt: tuple[Message, ...]
    answer: str
    id: str
    where: str = ""
    cut: bool = False
    tools: Tools = ()
    turn: Message | None = None

    @property
    def wanted(self) -> Answer:
        """The answer, as chat templates take it."""
        return _answer(self.answer, self.turn, self.cut)


@dataclass(frozen=True)
class Prompt:
    """A question without an answer."""

    prompt: tuple[Message, ...]
    id: str
    where: str = ""
    tools: Tools = ()


@dataclass(frozen=True)
class Preference:
    """A prompt with a chosen and a rejected completion, all text.

    `chosen_cut`, `rejected_cut`: the answer was cut off when it was generated; no end of turn is scored.
    `chosen_turn`, `rejected_turn`: the answer's message if it is more than text; `chosen` and `rejected` are
    then its text for people.
    """

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    id: str
    where: str = ""
    meta: dict[str, Any] = field(default_factory=dict)
    chosen_cut: bool = False
    rejected_cut: bool = False
    tools: Tools = ()
    chosen_turn: Message | None = None
    rejected_turn: Message | None = None

    @property
    def answers(self) -> tuple[Answer, Answer]:
        """The chosen and the rejected answer, as chat templates take them."""
        return (
            _answer(self.chosen, self.chosen_turn, self.chosen_cut),
            _answer(self.rejected, self.rejected_turn, self.rejected_cut),
        )


def _answer(text: str, turn: Message | None, cut: bool) -> Answer:
    return Answer(turn, cut) if turn else answer_of(text, cut=cut)


def prompt_text(prompt: tuple[Message, ...]) -> str:
    """The prompt on one line, for people: the last turn, cut at 70 characters."""
    text = " ".join(prompt[-1]["content"].split())
    return text if len(text) <= 70 else text[:69] + "…"
