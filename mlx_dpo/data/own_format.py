"""One JSON object to its records: what a row in our own form may look like.

A row of no known format is read as our own, and refused for the column that it lacks.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from ..errors import DpoError
from ..records import Curated, Message, Preference
from .known_formats import NoPairError, RowFormat, converted, format_of, in_their_words, other_format
from .messages import empty_column, kind_of, message_text, messages_of, text_of, tools_of
from .unusable_rows import check_no_transcript, check_not_unpaired, check_nothing_left_out, missing_column

_EMPTY = {"empty-chosen", "empty-rejected", "empty-answer"}
Record = TypeVar("Record", Curated, Preference)
_TOKEN = re.compile(r"[^\W_]+|\W|_")
_LABELS = frozenset(["human", "user", "assistant", "system", "question", "answer", "q", "a"])
_PAIR_HINT = 'each line needs "prompt", "chosen" and "rejected"; see data/README.md'
_CURATED_HINT = 'each line needs "prompt" and "answer"; see data/README.md'


def to_pairs(row: dict[str, Any], where: str, form: RowFormat | None = None) -> list[Preference]:
    """The pairs of a row; where there are several, their ids are numbered: "a/1", "a/2".

    Args:
        form: the format of the row's file; None for our own form.

    Raises:
        DpoError: as `to_preference`, or the row has another format than its file.
        NoPairError: the row makes no pair.
    """
    pairs = _read(to_preference, row, where, form)
    if len(pairs) == 1:
        return pairs
    return [replace(pair, id=f"{pair.id}/{number}") for number, pair in enumerate(pairs, 1)]


def to_answers(row: dict[str, Any], where: str, form: RowFormat | None = None) -> list[Preference]:
    """The answer to learn, in a list: of a row with several pairs, the chosen answer of the first."""
    return _read(to_answer, row, where, form, only_first=True)


def to_curated_rows(row: dict[str, Any], where: str, form: RowFormat | None = None) -> list[Curated]:
    """The curated answer of a row, in a list; see `to_answers`."""
    return _read(to_curated, row, where, form, only_first=True)


def _read(
    read: Callable[[dict[str, Any], str], Record],
    row: dict[str, Any],
    where: str,
    form: RowFormat | None,
    *,
    only_first: bool = False,
) -> list[Record]:
    """What `read` makes of the row, or of the rows in our own form that its format gives."""
    try:
        if not form:
            return [read(row, where)]
        found = _not_empty(read, converted(row, where, form), where)
        return found[:1] if only_first else found
    except DpoError as error:
        if form:
            raise in_their_words(error, form) from None
        other = format_of(row) if error.code.startswith("missing-") else None
        if other and other.needs.keys() != {"chosen", "rejected"}:
            raise other_format(other, where, "our own format") from None
        raise


def _not_empty(
    read: Callable[[dict[str, Any], str], Record], rows: list[dict[str, Any]], where: str
) -> list[Record]:
    """The records of the rows whose answers are not empty: published sets have some that are.

    Raises:
        NoPairError: all rows have an empty answer.
    """
    found = []
    for own in rows:
        try:
            found.append(read(own, where))
        except DpoError as error:
            if error.code not in _EMPTY:
                raise
    if not found:
        raise NoPairError("an answer is empty")
    return found


def to_preference(row: dict[str, Any], where: str) -> Preference:
    """A pair: prompt (or question), chosen, rejected as strings or message lists.

    Without a prompt, chosen and rejected are whole conversations and the prompt is the messages they share.
    A `system` string goes before the prompt, `tools` go to the chat template. Outer white space of every text
    is stripped. `chosen_cut` and `rejected_cut` mark answers that were cut off when they were generated.

    Raises:
        DpoError: a field that is missing, empty or of the wrong type, a row in another format, or a column
            that would change the prompt and cannot be used.
    """
    for key in ("chosen", "rejected"):
        _require(row, key, where, _PAIR_HINT)
    if all(isinstance(row[key], list) and len(row[key]) > 1 for key in ("chosen", "rejected")):
        prompt, chosen, rejected = _split_conversations(row, where)
        _check_prompt_column(row, prompt, where)
    else:
        check_no_transcript(row, where)
        prompt = _asked(row, where, _PAIR_HINT)
        chosen, rejected = (_answer(row[key], key, where) for key in ("chosen", "rejected"))
    prompt = _with_system(row, prompt, where)
    check_nothing_left_out(row, prompt, where)
    return Preference(
        prompt,
        message_text(chosen),
        message_text(rejected),
        _id(row, where),
        where,
        row["meta"] if isinstance(row.get("meta"), dict) else {},
        _flag(row, "chosen_cut", where),
        _flag(row, "rejected_cut", where),
        tools_of(row.get("tools"), where),
        _more_than_text(chosen),
        _more_than_text(rejected),
    )


def to_curated(row: dict[str, Any], where: str) -> Curated:
    """A question and its answer: prompt/answer, question/answer, prompt/completion, or chat `messages`.

    A pair is accepted too: its chosen answer is the answer.

    Raises:
        DpoError: as `to_preference`.
    """
    if "chosen" in row:
        pair = to_preference(row, where)
        cut, turn = pair.chosen_cut, pair.chosen_turn
        return Curated(pair.prompt, pair.chosen, pair.id, where, cut, pair.tools, turn)
    check_not_unpaired(row, where)
    if "messages" in row:
        messages = messages_of(row["messages"], "messages", where)
        if len(messages) < 2 or messages[-1]["role"] != "assistant":
            what = "'messages' must end with an assistant turn"
            raise DpoError(what, where=where, hint=_CURATED_HINT, code="not-one-answer")
        prompt, answer = messages[:-1], messages[-1]
        _check_prompt(prompt, where)
        _check_prompt_column(row, prompt, where)
    else:
        check_no_transcript(row, where)
        prompt = _asked(row, where, _CURATED_HINT)
        answered = "completion" if "completion" in row and "answer" not in row else "answer"
        _require(row, answered, where, _CURATED_HINT)
        answer = _answer(row[answered], answered, where)
    prompt = _with_system(row, prompt, where)
    check_nothing_left_out(row, prompt, where)
    tools = tools_of(row.get("tools"), where)
    return Curated(
        prompt, message_text(answer), _id(row, where), where, tools=tools, turn=_more_than_text(answer)
    )


def to_answer(row: dict[str, Any], where: str) -> Preference:
    """An answer to learn (the chosen one of a pair, or a curated one), as a pair of this answer with itself.

    Raises:
        DpoError: as `to_preference`.
    """
    if "chosen" in row:
        pair = to_preference(row, where)
        return replace(
            pair, rejected=pair.chosen, rejected_cut=pair.chosen_cut, rejected_turn=pair.chosen_turn
        )
    own = to_curated(row, where)
    turns = {"chosen_turn": own.turn, "rejected_turn": own.turn}
    return Preference(own.prompt, own.answer, own.answer, own.id, where, tools=own.tools, **turns)


def _require(row: dict[str, Any], key: str, where: str, hint: str) -> None:
    if key not in row:
        raise missing_column(row, key, where, hint)
    if row[key] is None or row[key] == [] or (isinstance(row[key], str) and not row[key].strip()):
        raise empty_column(key, where, hint)


def _asked(row: dict[str, Any], where: str, hint: str) -> tuple[Message, ...]:
    key = _prompt_key(row)
    _require(row, key, where, hint)
    return _prompt(row[key], key, where)


def _prompt_key(row: dict[str, Any]) -> str:
    return "question" if "question" in row and "prompt" not in row else "prompt"


def _prompt(value: Any, key: str, where: str) -> tuple[Message, ...]:
    if isinstance(value, list):
        messages = messages_of(value, key, where)
        if not messages:
            raise empty_column(key, where, "fill it in or remove it")
        _check_prompt(messages, where)
        return messages
    return ({"role": "user", "content": text_of(value, key, where)},)


def _check_prompt(messages: tuple[Message, ...], where: str) -> None:
    if messages[-1]["role"] not in ("user", "tool"):
        raise DpoError(
            "the prompt must end with a user turn",
            where=where,
            hint="a prompt ends with a user or tool turn; the assistant turn after it is the answer",
            code="prompt-ends-in-answer",
        )


def _check_prompt_column(row: dict[str, Any], prompt: tuple[Message, ...], where: str) -> None:
    """Check that a prompt given with whole conversations is how they begin, or a part of that."""
    key = _prompt_key(row)
    value = row.get(key)
    if value in (None, ""):
        return
    if isinstance(value, list):
        same = _prompt(value, key, where) == prompt
    else:
        text, turns = text_of(value, key, where), [turn["content"] for turn in prompt]
        same = text in turns or _is_transcript(text, turns)
    if not same:
        raise DpoError(
            f"'{key}' differs from the start of the conversation",
            where=where,
            hint="write a prompt and one assistant message per answer, or whole conversations without a "
            "prompt",
            code="prompt-differs",
        )


def _is_transcript(text: str, turns: list[str]) -> bool:
    """Whether the text consists of the turns, one after the other, with only names of roles around them."""
    said, place = _tokens(text), 0
    for turn in map(_tokens, turns):
        found = said.find(turn, place)
        if found < 0 or not _only_labels(said[place:found]):
            return False
        place = found + len(turn) - 1  # the next one begins with the mark that this one ends in
    return _only_labels(said[place:])


def _tokens(text: str) -> str:
    """Words and signs of a text, each between two marks, so that only whole words are found."""
    return "\0".join(["", *_TOKEN.findall(text.lower()), ""])


def _only_labels(tokens: str) -> bool:
    """Whether these are only names of roles, and signs."""
    return all(token in _LABELS or not token.isalnum() for token in tokens.split("\0"))


def _answer(value: Any, key: str, where: str) -> Message:
    if isinstance(value, list):
        messages = messages_of(value, key, where)
        if len(messages) != 1 or messages[0]["role"] != "assistant":
            raise DpoError(
                f"'{key}' must be one assistant message",
                where=where,
                hint="move the earlier turns to 'prompt'",
                code="not-one-answer",
            )
        return messages[0]
    return {"role": "assistant", "content": text_of(value, key, where)}


def _more_than_text(turn: Message) -> Message | None:
    return turn if turn.keys() > {"role", "content"} else None


def _split_conversations(row: dict[str, Any], where: str) -> tuple[tuple[Message, ...], Message, Message]:
    chosen, rejected = (messages_of(row[key], key, where) for key in ("chosen", "rejected"))
    if chosen[:-1] != rejected[:-1] or {chosen[-1]["role"], rejected[-1]["role"]} != {"assistant"}:
        raise DpoError(
            "chosen and rejected differ before the last assistant turn",
            where=where,
            hint="a pair is one prompt with two answers; put the shared turns in 'prompt'",
            code="conversations-part",
        )
    _check_prompt(chosen[:-1], where)
    return chosen[:-1], chosen[-1], rejected[-1]


def _with_system(row: dict[str, Any], prompt: tuple[Message, ...], where: str) -> tuple[Message, ...]:
    if row.get("system") in (None, ""):
        return prompt
    turn = {"role": "system", "content": text_of(row["system"], "system", where)}
    if prompt[0]["role"] != "system":
        return (turn, *prompt)
    if prompt[0] != turn:
        raise DpoError(
            "'system' and the prompt's system turn differ",
            where=where,
            hint="keep one of the two",
            code="two-systems",
        )
    return prompt


def _id(row: dict[str, Any], where: str) -> str:
    value = row.get("id")
    if value is None:
        return f"line-{where.rsplit(':', 1)[-1]}"
    if isinstance(value, float) and value.is_integer():  # pandas writes 1.0 if a column has a gap
        value = int(value)
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        what = "'id' must be text or a whole number"
        raise DpoError(
            what, where=where, hint="write text or a whole number, or leave 'id' out", code="wrong-type"
        )
    return str(value)


def _flag(row: dict[str, Any], key: str, where: str) -> bool:
    value = row.get(key)
    if value is not None and not isinstance(value, bool):
        raise DpoError(
            f"'{key}' must be true or false, got {kind_of(value)}",
            where=where,
            hint="write true if the answer was cut off before its end; leave the field out for complete "
            "answers",
            code="wrong-type",
        )
    return bool(value)
