"""Formats with several scored, ranked or rated answers a row: the best one against each that is worse."""

from typing import Any

from .pair_formats import asked
from .row_format import OBJECT, NoPairError, Row, as_turns, number_of, row_format, text_in
from .transcripts import is_transcript, prompt_of

SAME = "no two answers with different scores"

_TEXTS = ("response", "answer", "text", "completion", "output", "content", "generation")
_SCORES = ("score", "fine-grained_score", "overall_score", "rating", "reward")
_LISTS = ("completions", "answers", "responses", "outputs", "generations", "candidates")
_OF_LISTS = ("scores", "ratings", "rewards", "ranks", "rank")


def _score(answer: Row) -> float | None:
    """The score of an answer; a rank counts from the best, so a smaller one is a higher score."""
    if (rank := number_of(answer.get("rank"))) is not None:
        return -rank
    return number_of(text_in(answer, _SCORES))


def _column(row: Row) -> str:
    """The column that holds the answers; "" if none does, with a score for each."""
    return next((name for name in _LISTS if _scored(row, name) is not None), "")


def _scored(row: Row, name: str) -> list[tuple[Any, float | None]] | None:
    """The answers in a column with their scores; None if it has no answers with scores."""
    answers = row.get(name)
    if not isinstance(answers, list) or not answers:
        return None
    if all(isinstance(answer, dict) and text_in(answer, _TEXTS) is not None for answer in answers):
        scores = [_score(answer) for answer in answers]
        texts = [text_in(answer, _TEXTS) for answer in answers]
    else:
        of_list = next((key for key in _OF_LISTS if isinstance(row.get(key), list)), None)
        if of_list is None or len(row[of_list]) != len(answers):
            return None
        sign = -1 if of_list.startswith("rank") else 1
        scores = [None if (n := number_of(value)) is None else sign * n for value in row[of_list]]
        texts = answers
    return list(zip(texts, scores, strict=True)) if any(score is not None for score in scores) else None


def best_against_worse(prompt: Any, answers: list[tuple[Any, float | None]]) -> list[Row]:
    """A pair of the best answer and every answer with a lower score; answers without a score are not used.

    Raises:
        NoPairError: all scores are equal.
    """
    known = [(text, score) for text, score in answers if score is not None]
    best, top = max(known, key=lambda answer: answer[1])
    pairs = [
        {
            "prompt": prompt,
            "chosen": best,
            "rejected": text,
            "meta": {"score_chosen": top, "score_rejected": score},
        }
        for text, score in known
        if score < top
    ]
    if not pairs:
        raise NoPairError(SAME)
    return pairs


_PROMPTS = ("prompt", "instruction", "question")


@row_format(
    "prompts with several scored answers",
    {},
    " ".join((*_PROMPTS, *_LISTS, *_OF_LISTS, "input")),
    test=lambda row: (
        bool(text_in(row, _PROMPTS))
        and not row.keys() & {"chosen", "rejected", "answer"}
        and bool(_column(row))
    ),
    note="the best answer is paired with every answer that has a lower score",
)
def ranked(row: Row) -> list[Row]:
    """UltraFeedback, Nectar, and rows of {prompt, responses, scores}; each answer has a score or a rank."""
    prompt = asked(row) if row.get("instruction") else as_turns(text_in(row, _PROMPTS))
    prompt = prompt_of(prompt) if is_transcript(prompt) else prompt
    return best_against_worse(prompt, _scored(row, _column(row)))


@row_format(
    "open-webui feedback",
    {"data": OBJECT, "meta": OBJECT, "snapshot": OBJECT},
    "user_id version type details base_models created_at updated_at user id",
    note="a rated answer is paired with the other answers to the same message",
)
def open_webui(row: Row) -> list[Row]:
    """A thumbs-up or thumbs-down on one of several answers, with the conversation as a tree of messages."""
    messages = _history(row["snapshot"])
    rated, rating = messages.get(str(row["meta"].get("message_id"))), number_of(row["data"].get("rating"))
    if not rated or rating is None:
        raise NoPairError("no rating, or the rated message is not in the snapshot")
    siblings = [
        other
        for other in messages.values()
        if other is not rated
        and other.get("role") == "assistant"
        and other.get("parentId") == rated.get("parentId")
        and _rating(other) in (None, -rating)
    ]
    if not siblings or not rating:
        raise NoPairError("one rated answer, without another answer to the same message")
    prompt, own = _above(messages, rated), row.get("id")
    return [
        {
            **({"id": own} if own else {}),
            "prompt": prompt,
            "chosen": (rated if rating > 0 else other).get("content"),
            "rejected": (other if rating > 0 else rated).get("content"),
        }
        for other in siblings
    ]


def _rating(message: Row) -> float | None:
    annotation = message.get("annotation")
    return number_of(annotation.get("rating")) if isinstance(annotation, dict) else None


def _history(snapshot: Row) -> dict[str, Row]:
    """The messages of a snapshot by their ids."""
    held: Any = snapshot
    for _ in range(3):
        if isinstance(held, dict) and isinstance(held.get("history"), dict):
            break
        held = held.get("chat") if isinstance(held, dict) else None
    messages = held["history"].get("messages") if isinstance(held, dict) and "history" in held else {}
    listed = messages.values() if isinstance(messages, dict) else messages or ()
    return {one["id"]: one for one in listed if isinstance(one, dict) and isinstance(one.get("id"), str)}


def _above(messages: dict[str, Row], message: Row) -> list[Row]:
    """The turns that lead to a message, from the first."""
    turns, seen = [], set()
    while (parent := str(message.get("parentId"))) in messages and parent not in seen:
        seen.add(parent)
        message = messages[parent]
        turns.append({"role": message.get("role"), "content": message.get("content")})
    return turns[::-1]
