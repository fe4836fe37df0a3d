"""Rows that cannot be used, recognised by their columns: what they are, and how to make pairs of them."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..console import plural
from ..errors import DpoError, first_ten, label
from ..records import Message
from .format_registry import RowFormat
from .messages import unused_fields
from .transcripts import is_transcript


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
        "response_a response_b",
        "a row with two answers, neither named chosen (response_a, response_b)",
        f"{_PAIRS}: the better response is chosen",
    ),
    _layout(
        "response1 response2",
        "a row with two answers, neither named chosen (response1, response2)",
        f"{_PAIRS}: the better response is chosen",
    ),
    *(
        _layout(
            f"{asked} {answers}",
            f"a prompt with several answers, but without scores ({asked}, {answers})",
            f"mlx-dpo judge --completions FILE ranks the answers; or add a list of scores, or {_PAIRS}",
        )
        for asked in ("prompt", "instruction")
        for answers in ("completions", "responses", "answers", "generations")
    ),
)

_UNPAIRED = _LAYOUTS[:3]
_OTHER_NAMES = {
    "prompt": "instruction query input user_input problem",
    "chosen": "chosen_response response_chosen chosen_answer answer_chosen preferred accepted winner better "
    "positive pos correct good y_w",
    "rejected": "rejected_response response_rejected rejected_answer answer_rejected dispreferred loser "
    "worse negative neg wrong bad y_l",
    "answer": "response output target solution reply",
}
"""Names of our columns in other formats."""
_OURS = {"prompt", "question", "chosen", "rejected", "answer", "completion", "messages"}


def missing_column(row: dict[str, Any], key: str, where: str, hint: str) -> DpoError:
    """What to raise for a row that lacks a column: the format it has, or the column that may be meant."""
    if layout := next((layout for layout in _LAYOUTS if layout.columns <= row.keys()), None):
        return DpoError(layout.what, where=where, hint=layout.hint, code=layout.code)
    code = f"missing-{key}"
    if key == "chosen" and "rejected" not in row and {"prompt", "answer"} <= row.keys():
        hint = "mlx-dpo gen-pairs --source FILE makes pairs from it; mlx-dpo sft --data FILE trains on it"
        return DpoError(
            "is a curated row (prompt, answer): one answer, not two", where=where, hint=hint, code=code
        )
    other = next((name for name in _OTHER_NAMES.get(key, "").split() if row.get(name)), None)
    if not other:
        if not row.keys() & _OURS:
            hint = f"{hint}; this row has {first_ten([label(name) for name in row]) or 'no columns'}"
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
        DpoError: they are transcripts, in a file whose first rows are not.
    """
    found = [name for name in ("prompt", "chosen", "rejected", "answer") if is_transcript(row.get(name))]
    if (found and found[0] == "prompt") or found[-2:] == ["chosen", "rejected"]:
        verb = "is a transcript" if len(found) == 1 else "are transcripts"
        raise DpoError(
            f"{' and '.join(found)} {verb} (Human: ..., Assistant: ...)",
            where=where,
            hint="put transcripts into a separate file, or write the turns as messages",
            code="other-format",
        )


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


def unused_columns(row: dict[str, Any], form: RowFormat | None = None) -> Iterator[str]:
    """Names of non-empty columns that are not used, and of such fields in messages.

    Args:
        form: the format of the row; None for our own form.
    """
    if form:
        used = _EVERY | form.columns
    elif "chosen" in row:
        used = _OF_PAIRS
    elif "messages" in row:
        used = _EVERY | {"messages"}
    else:
        used = _EVERY | {"completion" if "completion" in row and "answer" not in row else "answer"}
    if not form and "messages" not in used:
        used = used | {"question" if "question" in row and "prompt" not in row else "prompt"}
    for name, value in row.items():
        if name == "meta" and isinstance(value, dict):
            continue
        if name not in used and value not in (None, "", [], {}):
            yield name
        elif name in used and name != "tools" and not form:
            yield from (f"{name}[].{field}" for field in unused_fields(value))


_NAMES = 30
"""Most names of unused columns that are counted; a file may have a new one in every row."""


def count_unused(row: dict[str, Any], found: Counter[str], form: RowFormat | None = None) -> None:
    """Count the row's unused columns in `found`; `form` as for `unused_columns`."""
    for name in unused_columns(row, form):
        if name in found or len(found) < _NAMES:
            found[name] += 1


def unused_text(path: Any, found: Mapping[str, int]) -> str:
    """The unused columns on one line, with the number of rows that have each."""
    columns = ", ".join(f"{name[:60]!r} ({count:,})" for name, count in found.items())
    more = ", and perhaps more" if len(found) == _NAMES else ""
    return f"{path}: unused columns (rows that have them): {columns}{more}"


def _places(places: Sequence[str]) -> str:
    """["a.jsonl:1", "a.jsonl:2", "b.jsonl:1"]  ->  "a.jsonl:1, 2, b.jsonl:1" """
    files = ["", *(place.rpartition(":")[0] for place in places)]
    same = [file == before for before, file in itertools.pairwise(files)]
    return ", ".join(
        place.rpartition(":")[2] if known else place for place, known in zip(places, same, strict=True)
    )


class LeftOut:
    """Rows that make no pair, by reason: how many, and the first ten of them."""

    def __init__(self, found: Mapping[str, tuple[int, Sequence[int]]] | None = None):
        """
        Args:
            found: for each reason, the number of rows and the first ten lines.
        """
        self.found = {reason: (count, list(lines)) for reason, (count, lines) in (found or {}).items()}

    def add(self, reason: str, line: int) -> None:
        """Count a row."""
        count, lines = self.found.setdefault(reason, (0, []))
        self.found[reason] = count + 1, [*lines, line][:10]

    def __bool__(self) -> bool:
        return bool(self.found)

    def text(self, where: Callable[[int], str]) -> str:
        """The reasons on one line each; `where` gives "file:line" of a line."""
        told = []
        for reason, (count, lines) in self.found.items():
            places = _places(list(map(where, lines)))
            more = f" and {count - len(lines):,} more" if count > len(lines) else ""
            told.append(f"no pair from {plural(count, 'row')}, {reason}: {places}{more}")
        return "\n".join(told)
