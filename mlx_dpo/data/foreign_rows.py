"""Rows in other formats, recognised by their columns: what they are, and how to convert them."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ..errors import DpoError
from ..records import Message
from .messages import unused_fields


class _Layout(NamedTuple):
    """Columns that a row of this kind has, what it is, the remedy, and the code of the error."""

    columns: frozenset[str]
    what: str
    hint: str
    code: str


def _layout(columns: str, what: str, hint: str, code: str = "other-format") -> _Layout:
    return _Layout(frozenset(columns.split()), f"is {what}", hint, code)


_PAIRS = "rewrite the row with prompt, chosen and rejected"
_LAYOUTS = (
    _layout("completion label", "an unpaired row (completion, label); DPO needs pairs", _PAIRS, "unpaired"),
    _layout("messages label", "an unpaired row (messages, label); DPO needs pairs", _PAIRS, "unpaired"),
    _layout("kto_tag", "an unpaired row (kto_tag); DPO needs pairs", _PAIRS, "unpaired"),
    _layout(
        "conversations",
        "a ShareGPT conversation (conversations: from, value)",
        "write its turns into 'prompt' as messages ({role, content}; human becomes user, gpt becomes "
        "assistant), and the two answers into 'chosen' and 'rejected'",
    ),
    _layout(
        "messages chosen rejected",
        "an axolotl row (messages, chosen, rejected)",
        "rename messages to prompt, and write chosen and rejected as lists of one message, or as text",
    ),
    _layout(
        "messages rejected_response",
        "an ms-swift row (messages, rejected_response)",
        f"{_PAIRS}: the last turn of messages is chosen, the turns before it are the prompt",
    ),
    _layout(
        "preferred_output non_preferred_output",
        "an OpenAI preference row (input, preferred_output, non_preferred_output)",
        "rename input.messages to prompt, preferred_output to chosen, non_preferred_output to rejected",
    ),
    _layout(
        "instruction completions",
        "a prompt with several rated answers (UltraFeedback)",
        f"{_PAIRS}: take the instruction, its best completion and a worse one",
    ),
    _layout(
        "prompt answers",
        "a prompt with several answers (Nectar)",
        f"{_PAIRS}: take the answer of rank 1 and one of a lower rank",
    ),
    _layout(
        "response_j response_k",
        "a Stack Exchange preference pair (response_j, response_k)",
        "rename question to prompt, response_j to chosen, response_k to rejected",
    ),
    _layout(
        "human_ref_A human_ref_B",
        "a Stanford Human Preferences pair (human_ref_A, human_ref_B)",
        f"{_PAIRS}: history is the prompt; human_ref_A is chosen where labels is 1, else human_ref_B",
    ),
    _layout(
        "response_0 response_1",
        "a PKU-SafeRLHF pair (response_0, response_1)",
        f"{_PAIRS}: better_response_id says which response is chosen",
    ),
    _layout(
        "conversation_a conversation_b",
        "a Chatbot Arena battle (conversation_a, conversation_b)",
        f"{_PAIRS}: winner says which conversation is chosen; leave ties out",
    ),
    _layout(
        "response_a response_b",
        "a row with two answers, neither named chosen (response_a, response_b)",
        f"{_PAIRS}: the better response is chosen",
    ),
    _layout(
        "instruction output",
        "an Alpaca row (instruction, input, output): one answer, not two",
        "mlx-dpo gen-pairs makes pairs from such rows: rename instruction (with input) to prompt, and output "
        "to answer",
    ),
    _layout(
        "response1 response2",
        "a row with two answers, neither named chosen (response1, response2)",
        f"{_PAIRS}: the better response is chosen",
    ),
)

_UNPAIRED = _LAYOUTS[:3]
_ANSWERS = (
    _layout(
        "conversations",
        "a ShareGPT conversation (conversations: from, value)",
        "write its turns as 'messages' ({role, content}; human becomes user, gpt becomes assistant)",
    ),
)
"""Other formats of a row with one answer."""

_OTHER_NAMES = {
    "prompt": "instruction query input user_input problem",
    "chosen": "chosen_response response_chosen chosen_answer answer_chosen preferred accepted winner better "
    "positive pos correct good y_w",
    "rejected": "rejected_response response_rejected rejected_answer answer_rejected dispreferred loser "
    "worse negative neg wrong bad y_l",
    "answer": "response output target solution reply",
}
"""Names of our columns in other formats."""

_ASSISTANT = re.compile(r"^[^\S\n]*Assistant:", re.MULTILINE)


def missing_column(row: dict[str, Any], key: str, where: str, hint: str) -> DpoError:
    """What to raise for a row that lacks a column: the format it has, or the column that may be meant."""
    layouts = _ANSWERS if key in ("prompt", "answer") and "chosen" not in row else _LAYOUTS
    if layout := next((layout for layout in layouts if layout.columns <= row.keys()), None):
        return DpoError(layout.what, where=where, hint=layout.hint, code=layout.code)
    code = f"missing-{key}"
    if key == "chosen" and "rejected" not in row and {"prompt", "answer"} <= row.keys():
        hint = "mlx-dpo gen-pairs --source FILE makes pairs from it; mlx-dpo sft --data FILE trains on it"
        return DpoError(
            "is a curated row (prompt, answer): one answer, not two", where=where, hint=hint, code=code
        )
    other = next((name for name in _OTHER_NAMES.get(key, "").split() if row.get(name)), None)
    if not other:
        return DpoError(f"'{key}' is missing", where=where, hint=hint, code=code)
    more = " and add 'input' to it" if other == "instruction" and row.get("input") else ""
    return DpoError(
        f"'{key}' is missing; the row has '{other}'",
        where=where,
        hint=f"rename '{other}' to '{key}'{more}",
        code=code,
    )


def check_not_unpaired(row: dict[str, Any], where: str) -> None:
    """Check that a row is not a single answer labelled good or bad, as KTO needs it.

    Raises:
        DpoError: the row is one.
    """
    if layout := next((layout for layout in _UNPAIRED if layout.columns <= row.keys()), None):
        hint = "keep only the good answers and remove the label, or write pairs"
        raise DpoError(layout.what, where=where, hint=hint, code=layout.code)


def check_no_transcript(row: dict[str, Any], where: str) -> None:
    """Check that the prompt and each answer are the text of one speaker.

    Raises:
        DpoError: they are transcripts, as in Anthropic's HH data.
    """
    found = [name for name in ("prompt", "chosen", "rejected") if _is_transcript(row.get(name))]
    if found == ["prompt"] or found[-2:] == ["chosen", "rejected"]:
        verb = "is a transcript" if found == ["prompt"] else "are transcripts"
        raise DpoError(
            f"{' and '.join(found)} {verb} (Human: ..., Assistant: ...)",
            where=where,
            hint='split it at each "Human:" and "Assistant:" and write the turns as messages: the turns that '
            'chosen and rejected share are the prompt, the text after the last "Assistant:" is the answer',
            code="other-format",
        )


def _is_transcript(value: Any) -> bool:
    return isinstance(value, str) and value.lstrip().startswith("Human:") and bool(_ASSISTANT.search(value))


_TEXT_ONLY = "mlx-dpo trains on text only: remove the row, or this column if the text does not need it"
_INTO_PROMPT = "add its text to the prompt, or rename the column if the prompt does not need it"
_CHANGES_PROMPT = {
    "input": _INTO_PROMPT,
    "instruction": _INTO_PROMPT,
    "context": _INTO_PROMPT,
    "documents": _INTO_PROMPT,
    "history": "write its turns into 'prompt' as messages, or rename the column",
    "system_prompt": "rename it to 'system'",
    "system_message": "rename it to 'system'",
    "functions": "rename it to 'tools': a list of {type, function}",
    "chat_template_kwargs": "remove the column and set model.template_options, which applies to all rows",
    **dict.fromkeys(("image", "images", "audio", "audios", "video", "videos"), _TEXT_ONLY),
}
"""Columns that change what a model is asked; they are never dropped silently."""


def check_nothing_left_out(row: dict[str, Any], prompt: tuple[Message, ...], where: str) -> None:
    """Check that the prompt contains what other columns add to it.

    Raises:
        DpoError: a column that changes the prompt has content that the prompt lacks.
    """
    for name, hint in _CHANGES_PROMPT.items():
        value = row.get(name)
        if value in (None, "", [], {}) or (isinstance(value, str) and not value.strip()):
            continue
        if not (isinstance(value, str) and any(value.strip() in turn["content"] for turn in prompt)):
            what = f"'{name}' is not part of the prompt and would be left out"
            raise DpoError(what, where=where, hint=hint, code="left-out")


_EVERY = {"system", "tools", "id"}
_OF_PAIRS = _EVERY | {"chosen", "rejected", "chosen_cut", "rejected_cut"}


def unused_columns(row: dict[str, Any], own: frozenset[str] = frozenset()) -> Iterator[str]:
    """Names of non-empty columns that are not used, and of such fields in messages.

    Args:
        own: columns that only rows of this kind use.
    """
    if "chosen" in row:
        used = _OF_PAIRS
    elif "messages" in row:
        used = _EVERY | {"messages"}
    else:
        used = _EVERY | {"completion" if "completion" in row and "answer" not in row else "answer"}
    if "messages" not in used:
        used = used | {"question" if "question" in row and "prompt" not in row else "prompt"}
    for name, value in row.items():
        if name == "meta" and isinstance(value, dict):
            continue
        if name not in used and name not in own and value not in (None, "", [], {}):
            yield name
        elif name in used and name != "tools":
            yield from (f"{name}[].{field}" for field in unused_fields(value))


_NAMES = 30
"""Most names of unused columns that are counted; a file may have a new one in every row."""


def count_unused(row: dict[str, Any], found: Counter[str], own: frozenset[str] = frozenset()) -> None:
    """Count the row's unused columns in `found`; `own` as for `unused_columns`."""
    for name in unused_columns(row, own):
        if name in found or len(found) < _NAMES:
            found[name] += 1


def unused_text(path: Any, found: Mapping[str, int]) -> str:
    """The unused columns on one line, with the number of rows that have each."""
    columns = ", ".join(f"{name[:60]!r} ({count:,})" for name, count in found.items())
    more = ", and perhaps more" if len(found) == _NAMES else ""
    return f"{path}: unused columns (rows that have them): {columns}{more}"
