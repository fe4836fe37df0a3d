"""What an LLM is asked about a topic, and how its replies are read."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ..chat_protocol import Request
from ..judges.json_replies import UnreadableReplyError
from .preference_files import without_both
from .win_lose import WinLose

SCORE, DESCRIBE, COMPARE = "score_topic", "describe_topic", "build_preferences"
"""The functions that an LLM is asked to call."""
_MOST_WORDS, _MOST_CHARACTERS = 12, 150
"""Of a description; two to six words are asked for."""

_SCORING = """\
Judge how coherent a topic of a topic model is, by its top words, the most important one first.
1: the words have nothing to do with each other
2: most words share a theme, but some do not belong to it
3: the words clearly share one theme"""
_DESCRIBING = """\
Name what a topic of a topic model is about, by its top words, the most important one first. Write a concrete
noun phrase of 2 to 6 words. Take the theme that most words share; earlier words count more."""
_DISTINCT = """\
Other topics are described already, as listed below. Choose a theme that these words support and that differs
from all of them, and do not use the same main nouns."""
_COMPARING = """\
Decide which words belong to a topic of a topic model. A good word is central to the description of the topic.
A bad word is unrelated to it, misleading, or so general that it would fit any topic.
List A has the words that the model ranks highest, list B other candidates. Each word has a number.
- Every bad word of list A loses.
- Every good word of list B wins.
- Good words of list A win too.
- Have about as many winners as losers, with a difference of at most 2 if possible.
- Bad words of list B may lose too. A word never wins and loses.
Reply with the numbers of the words as they are given here."""


class Question(NamedTuple):
    """One question about a topic.

    `function`: the function to call. `text`: the task and its words. `example`: the arguments of a call.
    `schema`: of the arguments. `read`: takes them and gives the answer, or raises UnreadableReplyError.
    """

    function: str
    text: str
    example: dict[str, Any]
    schema: dict[str, Any]
    read: Callable[[Mapping[str, Any]], Any]

    @property
    def form(self) -> str:
        """How to reply."""
        return (
            f"Call the function {self.function}. If you cannot call functions, reply with one JSON object "
            f"of its arguments and nothing else, such as {json.dumps(self.example)}"
        )

    def request(self, max_tokens: int) -> Request:
        """The question for a server; it is one user turn, since some chat templates refuse a system turn."""
        message = {"role": "user", "content": f"{self.text}\n\n{self.form}"}
        return Request([message], max_tokens, schema=self.schema, function=self.function)


def score_question(topic: int, words: Sequence[str]) -> Question:
    """How coherent the words are: 1, 2 or 3."""
    schema = _schema(llm_score={"type": "integer", "enum": [1, 2, 3]})
    text = f"{_SCORING}\n\nTopic: {topic}\nTop words: {_listed(words)}"
    return Question(SCORE, text, {"k": topic, "llm_score": 2}, schema, _read_score)


def _read_score(reply: Mapping[str, Any]) -> int:
    score = _whole_number(reply.get("llm_score"))
    if score not in (1, 2, 3):
        raise UnreadableReplyError("llm_score is not 1, 2 or 3")
    return score


def description_question(topic: int, words: Sequence[str], others: Sequence[str] = ()) -> Question:
    """What the words are about, as text.

    Args:
        others: descriptions of other topics, from which this one has to differ.
    """
    distinct = f"\n{_DISTINCT}\n\nOther topics: {_listed(others)}" if others else ""
    text = f"{_DESCRIBING}{distinct}\n\nTopic: {topic}\nTop words: {_listed(words)}"
    example = {"k": topic, "main_meaning": "computer hardware"}
    schema = _schema(main_meaning={"type": "string"})
    return Question(DESCRIBE, text, example, schema, _read_description)


def _read_description(reply: Mapping[str, Any]) -> str:
    text = reply.get("main_meaning")
    words = "".join(c if c.isprintable() else " " for c in text).split() if isinstance(text, str) else []
    if not words:
        raise UnreadableReplyError("main_meaning is not a text")
    if len(words) > _MOST_WORDS:
        raise UnreadableReplyError(f"main_meaning has {len(words)} words, more than 6")
    text = " ".join(words)
    if len(text) > _MOST_CHARACTERS:
        raise UnreadableReplyError(f"main_meaning has {len(text):,} characters, more than {_MOST_CHARACTERS}")
    return text


def preferences_question(
    topic: int, description: str, top: Mapping[str, int], others: Mapping[str, int]
) -> Question:
    """Which words win and which lose, as WinLose of their numbers.

    Args:
        top, others: words with their vocabulary indices.
    """
    numbers = {"type": "array", "items": {"type": "integer"}}
    schema = _schema(w_win_indices=numbers, w_loose_indices=numbers)
    words = f"List A: {_listed(top)}\nList B: {_listed(others)}"
    text = f"{_COMPARING}\n\nTopic: {topic}\nDescription: {_listed(description)}\n{words}"
    first, second = [*top.values()][:2]
    example = {"k": topic, "w_win_indices": [first], "w_loose_indices": [second]}
    offered = {**others, **top}

    def read(reply: Mapping[str, Any]) -> WinLose:
        return without_both(
            *(_offered(reply, name, offered) for name in ("w_win_indices", "w_loose_indices"))
        )

    return Question(COMPARE, text, example, schema, read)


def _offered(reply: Mapping[str, Any], name: str, offered: Mapping[str, int]) -> list[int]:
    """The words of a list that were offered, by their numbers or as words; others are left out."""
    given = reply.get(name)
    if not isinstance(given, list):
        raise UnreadableReplyError(f"{name} is not a list")
    indices = [
        offered[one] if isinstance(one, str) and one in offered else _whole_number(one) for one in given
    ]
    known = [index for index in indices if index in offered.values()]
    if given and not known:
        raise UnreadableReplyError(f"{name} has no number of a word that was given")
    return known


def _whole_number(value: Any) -> int | None:
    """A whole number, which may be written with decimals or as text; None for anything else.

    17, 17.0, "17" -> 17
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return int(number) if number.is_integer() else None


def _schema(**properties: dict[str, Any]) -> dict[str, Any]:
    every = {"k": {"type": "integer"}, **properties}
    return {"type": "object", "properties": every, "required": [*every], "additionalProperties": False}


def _listed(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
