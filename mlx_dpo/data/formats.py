"""One JSON object to one record: what a row may look like."""

from dataclasses import replace
from typing import Any

from ..errors import DpoError
from ..records import Curated, Message, Preference

_ROLES = ("system", "user", "assistant")
_PAIR_HINT = 'each line needs "prompt", "chosen" and "rejected"; see data/README.md'
_CURATED_HINT = 'each line needs "prompt" and "answer"; see data/README.md'


def to_preference(row: dict[str, Any], where: str) -> Preference:
    """A pair: prompt, chosen, rejected as strings or message lists.

    Without a prompt, chosen and rejected are whole conversations and the prompt is the messages they share.
    A `system` string goes before the prompt. Outer white space of every text is stripped. `chosen_cut` and
    `rejected_cut` mark answers that were cut off where they were made.

    Raises:
        DpoError: a missing, empty or mistyped field, or unpaired (KTO) rows.
    """
    if "completion" in row and "label" in row:
        raise DpoError(
            "is an unpaired row (completion, label); DPO needs pairs",
            where=where,
            hint=_PAIR_HINT,
        )
    for key in ("chosen", "rejected"):
        _require(row, key, where, _PAIR_HINT)
    chosen, rejected = row["chosen"], row["rejected"]
    whole = [isinstance(c, list) and len(c) > 1 for c in (chosen, rejected)]
    if all(whole):
        chosen, rejected = (
            _messages(c, key, where) for c, key in ((chosen, "chosen"), (rejected, "rejected"))
        )
        prompt, chosen, rejected = _split_conversations(chosen, rejected, where)
        if isinstance(row.get("prompt"), list) and _prompt(row["prompt"], where) != prompt:
            raise DpoError(
                "'prompt' is not what chosen and rejected begin with",
                where=where,
                hint="give the prompt's turns and one assistant message each, or whole conversations only",
            )
    else:
        _require(row, "prompt", where, _PAIR_HINT)
        prompt = _prompt(row["prompt"], where)
        chosen, rejected = _completion(chosen, "chosen", where), _completion(rejected, "rejected", where)
    prompt = _with_system(row, prompt, where)
    cut = _flag(row, "chosen_cut", where), _flag(row, "rejected_cut", where)
    return Preference(prompt, chosen, rejected, _id(row, where), where, _meta(row, where), *cut)


def to_curated(row: dict[str, Any], where: str) -> Curated:
    """A question and its answer: prompt/answer, question/answer, prompt/completion, or chat `messages`.

    A pair is one too: its chosen answer is the answer.

    Raises:
        DpoError: none of these, or a missing, empty or mistyped field.
    """
    if "chosen" in row:
        pair = to_preference(row, where)
        return Curated(pair.prompt, pair.chosen, pair.id, where, pair.chosen_cut)
    if "messages" in row:
        messages = _messages(row["messages"], "messages", where)
        if len(messages) < 2 or messages[-1]["role"] != "assistant":
            raise DpoError("'messages' must end with an assistant turn", where=where, hint=_CURATED_HINT)
        prompt, answer = messages[:-1], messages[-1]["content"]
        _check_prompt(prompt, where)
    else:
        asked = "question" if "question" in row and "prompt" not in row else "prompt"
        answered = "completion" if "completion" in row and "answer" not in row else "answer"
        _require(row, asked, where, _CURATED_HINT)
        _require(row, answered, where, _CURATED_HINT)
        prompt, answer = _prompt(row[asked], where), _completion(row[answered], answered, where)
    return Curated(_with_system(row, prompt, where), answer, _id(row, where), where)


def to_answer(row: dict[str, Any], where: str) -> Preference:
    """A row to learn the answer of: a pair's chosen one, or a curated one; as a pair of it with itself.

    Raises:
        DpoError: as `to_preference` where there is a chosen answer, else as `to_curated`.
    """
    if "chosen" in row:
        pair = to_preference(row, where)
        return replace(pair, rejected=pair.chosen, rejected_cut=pair.chosen_cut)
    own = to_curated(row, where)
    return Preference(own.prompt, own.answer, own.answer, own.id, where)


def _require(row: dict[str, Any], key: str, where: str, hint: str) -> None:
    if key not in row:
        raise DpoError(f"'{key}' is missing", where=where, hint=hint)
    if row[key] is None or row[key] == [] or (isinstance(row[key], str) and not row[key].strip()):
        raise DpoError(f"'{key}' is empty", where=where, hint=hint)


def _text(value: Any, key: str, where: str) -> str:
    if not isinstance(value, str):
        raise DpoError(
            f"'{key}' must be text, got {type(value).__name__}",
            where=where,
            hint="texts are JSON strings; conversations are lists of {role, content}",
        )
    if not value.strip():
        raise DpoError(f"'{key}' is empty", where=where, hint="fill it in or remove the row")
    return value.strip()


def _messages(value: Any, key: str, where: str) -> tuple[Message, ...]:
    if not isinstance(value, list):
        raise DpoError(
            f"'{key}' must be a list of messages, got {type(value).__name__}",
            where=where,
            hint='a message is {"role": "user", "content": "..."}',
        )
    messages = []
    for turn in value:
        if not isinstance(turn, dict) or not {"role", "content"} <= turn.keys():
            raise DpoError(
                f"'{key}' has a turn without role and content",
                where=where,
                hint='a message is {"role": "user", "content": "..."}',
            )
        if turn["role"] not in _ROLES:
            raise DpoError(
                f"'{key}' has the role {turn['role']!r}", where=where, hint=f"roles are {', '.join(_ROLES)}"
            )
        messages.append({"role": turn["role"], "content": _text(turn["content"], key, where)})
    return tuple(messages)


def _prompt(value: Any, where: str) -> tuple[Message, ...]:
    if isinstance(value, list):
        messages = _messages(value, "prompt", where)
        if not messages:
            raise DpoError("'prompt' is empty", where=where, hint="fill it in or remove it")
        _check_prompt(messages, where)
        return messages
    return ({"role": "user", "content": _text(value, "prompt", where)},)


def _check_prompt(messages: tuple[Message, ...], where: str) -> None:
    if messages[-1]["role"] != "user":
        raise DpoError(
            "the prompt must end with a user turn", where=where, hint="the completion is the assistant's turn"
        )


def _completion(value: Any, key: str, where: str) -> str:
    if isinstance(value, list):
        messages = _messages(value, key, where)
        if len(messages) != 1 or messages[0]["role"] != "assistant":
            raise DpoError(
                f"'{key}' must be one assistant message", where=where, hint="earlier turns go to 'prompt'"
            )
        return messages[0]["content"]
    return _text(value, key, where)


def _split_conversations(
    chosen: tuple[Message, ...], rejected: tuple[Message, ...], where: str
) -> tuple[tuple[Message, ...], str, str]:
    if chosen[:-1] != rejected[:-1] or {chosen[-1]["role"], rejected[-1]["role"]} != {"assistant"}:
        raise DpoError(
            "chosen and rejected differ before the last assistant turn",
            where=where,
            hint="a pair is one prompt with two answers; put the shared turns in 'prompt'",
        )
    _check_prompt(chosen[:-1], where)
    return chosen[:-1], chosen[-1]["content"], rejected[-1]["content"]


def _with_system(row: dict[str, Any], prompt: tuple[Message, ...], where: str) -> tuple[Message, ...]:
    if not row.get("system"):
        return prompt
    turn = {"role": "system", "content": _text(row["system"], "system", where)}
    if prompt[0]["role"] != "system":
        return (turn, *prompt)
    if prompt[0] != turn:
        raise DpoError(
            "'system' and the prompt's system turn differ", where=where, hint="keep one of the two"
        )
    return prompt


def _id(row: dict[str, Any], where: str) -> str:
    value = row.get("id", f"line-{where.rsplit(':', 1)[-1]}")
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        raise DpoError("'id' must be text or a whole number", where=where, hint="or leave it out")
    return str(value)


def _flag(row: dict[str, Any], key: str, where: str) -> bool:
    value = row.get(key)
    if value is not None and not isinstance(value, bool):
        raise DpoError(
            f"'{key}' must be true or false, got {type(value).__name__}",
            where=where,
            hint="true says that the answer was cut off and has no end; leave it out for whole answers",
        )
    return bool(value)


def _meta(row: dict[str, Any], where: str) -> dict[str, Any]:
    meta = row.get("meta") or {}
    if not isinstance(meta, dict):
        raise DpoError("'meta' must be an object", where=where, hint="or leave it out")
    return meta
