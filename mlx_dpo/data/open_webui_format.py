"""The feedback that open-webui exports: conversations as trees of messages, with rated answers."""

from typing import Any

from .format_registry import OBJECT, NoPairError, Row, number_of, row_format


@row_format(
    "open-webui feedback",
    {"data": OBJECT, "meta": OBJECT, "snapshot": OBJECT},
    "user_id version type details base_models created_at updated_at user id",
    note="a rated answer is paired with the other answers to the same message",
)
def open_webui(row: Row) -> list[Row]:
    """A thumbs-up or thumbs-down on one of several answers, with the conversation as a tree of messages."""
    chat = _chat(row["snapshot"])
    messages = _messages(chat)
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
    if rating < 0:  # an answer that was rated better has a record too, which gives the same pair
        siblings = [other for other in siblings if _rating(other) is None]
    if not siblings:
        raise NoPairError("the record of the better answer gives this pair")
    prompt, own = _system(chat) + _above(messages, rated), row.get("id")
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


def _chat(snapshot: Row) -> Row:
    """The object with the history of a snapshot, which may be inside `chat`; {} if there is none."""
    held: Any = snapshot
    while isinstance(held, dict) and not isinstance(held.get("history"), dict):
        held = held.get("chat")
    return held if isinstance(held, dict) else {}


def _messages(chat: Row) -> dict[str, Row]:
    """The messages of a chat by their ids."""
    messages = chat.get("history", {}).get("messages")
    listed = messages.values() if isinstance(messages, dict) else messages or ()
    return {one["id"]: one for one in listed if isinstance(one, dict) and isinstance(one.get("id"), str)}


def _system(chat: Row) -> list[Row]:
    """The system turn of a chat that has a system prompt."""
    params = chat.get("params")
    text = params.get("system") if isinstance(params, dict) else None
    return [{"role": "system", "content": text}] if text else []


_OF_TURNS = ("content", "files")
"""What of a message is part of the prompt; a turn with files is refused."""


def _above(messages: dict[str, Row], message: Row) -> list[Row]:
    """The turns that lead to a message, from the first."""
    turns, seen = [], set()
    while (parent := str(message.get("parentId"))) in messages and parent not in seen:
        seen.add(parent)
        message = messages[parent]
        turns.append({"role": message.get("role"), **{name: message.get(name) for name in _OF_TURNS}})
    return turns[::-1]
