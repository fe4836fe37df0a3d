"""Prompts with several completions each, from a file."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..console import plural
from ..data.messages import kind_of, messages_of, text_of, tools_of
from ..data.row_files import open_rows
from ..data.row_reader import RowReader
from ..errors import DpoError
from ..pairs.completions import LONGEST_ROW
from ..records import Message, Tools

_HINT = 'each line needs a prompt and a list: {"prompt": "...", "completions": ["...", "..."]}'


@dataclass(frozen=True)
class Completions:
    """A prompt and its distinct answers that are not empty; `ended`: whether each came to its end.

    `given`: the number of completions in the row. `key`: of a file's rows with one key, the last one counts.
    """

    prompt: tuple[Message, ...]
    answers: tuple[str, ...]
    ended: tuple[bool, ...]
    given: int
    id: str
    where: str
    key: str
    tools: Tools = ()


def read_completions(path: Path | str) -> list[Completions]:
    """The rows of a file or folder; of several rows of a file with the same key, the last one.

    Raises:
        DpoError: the file cannot be read, or the first wrong row, with the number of others.
    """
    rows: dict[str, Completions] = {}
    errors: list[DpoError] = []
    reader = RowReader(
        open_rows(path), lambda row, where, form: [to_completions(row, where)], longest=LONGEST_ROW
    )
    for line in reader:
        if line.error:
            errors.append(line.error)
        rows.update({row.key: row for row in line.records})
    if errors:
        more = f" ({plural(len(errors) - 1, 'more line')} cannot be used)" if errors[1:] else ""
        raise errors[0].instead(what=f"{errors[0].what}{more}")
    return list(_with_different_ids(rows.values()))


def _with_different_ids(rows: Iterable[Completions]) -> Iterator[Completions]:
    """The rows, with -2, -3, ... after an id that an earlier row has: training refuses pairs with one id."""
    taken: set[str] = set()
    for row in rows:
        names = itertools.chain([row.id], (f"{row.id}-{number}" for number in itertools.count(2)))
        row = replace(row, id=next(name for name in names if name not in taken))
        taken.add(row.id)
        yield row


def to_completions(row: dict[str, Any], where: str) -> Completions:
    """One row: prompt, completions; maybe ended, tools, key or id.

    Raises:
        DpoError: a column that is missing or wrong.
    """
    for column in ("prompt", "completions"):
        if column not in row:
            raise DpoError(f"'{column}' is missing", where=where, hint=_HINT, code="missing-column")
    texts, ended = row["completions"], row.get("ended")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        what = "'completions' must be a list of texts"
        what += f", got {kind_of(texts)}" if not isinstance(texts, list) else ""
        raise DpoError(what, where=where, hint=_HINT, code="wrong-type")
    if ended is None:
        ended = [True] * len(texts)
    if not isinstance(ended, list) or [type(one) for one in ended] != [bool] * len(texts):
        raise DpoError(
            "'ended' must have true or false for each completion",
            where=where,
            hint="false marks a completion that was cut off; leave the column out if all are complete",
            code="wrong-type",
        )
    answers: dict[str, bool] = {}
    for text, end in zip(texts, ended, strict=True):
        if text := text.strip():
            answers[text] = answers.get(text, False) or end
    key = row.get("key")
    name = key if row.get("id") is None else row["id"]
    file, _, number = where.rpartition(":")
    return Completions(
        _prompt(row["prompt"], where),
        tuple(answers),
        tuple(answers.values()),
        len(texts),
        f"line-{number}" if name is None else str(name),
        where,
        where if key is None else f"{file}\0{key}",
        tools_of(row.get("tools"), where),
    )


def _prompt(value: Any, where: str) -> tuple[Message, ...]:
    if not isinstance(value, list):
        return ({"role": "user", "content": text_of(value, "prompt", where)},)
    messages = messages_of(value, "prompt", where)
    if not messages or messages[-1]["role"] not in ("user", "tool"):
        raise DpoError(
            "the prompt must end with a user turn",
            where=where,
            hint="a prompt ends with a user or tool turn; the completions are the turns after it",
            code="prompt-ends-in-answer",
        )
    return messages
