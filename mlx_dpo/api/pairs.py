"""Pairs in memory: checked, tokenised and named as the rows of a file are."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..data import sources
from ..errors import DpoError, first_line
from ..records import Answer, Preference
from ..storage.files import write_text
from ..storage.reading import expanded

Pairs = str | Path | Iterable[Mapping[str, Any] | Preference]
"""A JSONL file, or rows: dicts as in data/README.md, and what `read_pairs` gave."""


def read_pairs(source: Pairs) -> list[Preference]:
    """Check pairs and give them one by one: `prompt` (messages), `chosen`, `rejected` (text), `id`, `meta`.

    Args:
        source: a JSONL file, or dicts with "prompt", "chosen" and "rejected": texts or message lists. Every
            format of data/README.md is read as it is.

    Raises:
        DpoError: a bad row, the same id twice, or no rows. `where` is "file:line", or "pairs[3]" in memory.
    """
    with as_file(source) as path:
        pairs = sources.read_pairs(path)
    if not in_memory(source):
        return pairs
    return [replace(pair, where=_renamed(pair.where, str(path), "pairs")) for pair in pairs]


def in_memory(pairs: Pairs | None) -> bool:
    """Whether they are rows, not the name of a file."""
    return pairs is not None and not isinstance(pairs, (str, Path))


@contextmanager
def as_file(pairs: Pairs, name: str = "pairs") -> Iterator[Path]:
    """The file of these pairs; of pairs in memory a temporary one, and an error names the pair: "pairs[3]".

    Raises:
        DpoError: a row is no dict, or holds what JSON cannot.
    """
    if not in_memory(pairs):
        yield expanded(pairs)
        return
    with TemporaryDirectory(prefix="mlx_dpo_") as folder:
        path = Path(folder) / f"{name}.jsonl"
        write_text(path, rows_text(pairs, name))
        with named({path: name}):
            yield path


def rows_text(pairs: Iterable[Mapping[str, Any] | Preference], name: str) -> str:
    """Pairs in memory as JSONL, line n+1 being pair n.

    Raises:
        DpoError: a row is no dict, or holds what JSON cannot.
    """
    lines = []
    for number, pair in enumerate(pairs):
        where = f"{name}[{number}]"
        if not isinstance(pair, (Mapping, Preference)):
            raise DpoError(
                f"is a {type(pair).__name__}, not a dict",
                where=where,
                code="not-an-object",
                hint='a pair is {"prompt": "...", "chosen": "...", "rejected": "..."}',
            )
        try:
            lines.append(json.dumps(as_row(pair) if isinstance(pair, Preference) else dict(pair)))
        except (TypeError, ValueError, RecursionError) as error:
            raise DpoError(
                f"cannot be written as JSON: {first_line(error)}",
                where=where,
                hint="a row holds texts, numbers, true or false, None, lists and dicts",
            ) from None
    return "".join(f"{line}\n" for line in lines)


def as_row(pair: Preference) -> dict[str, Any]:
    """The row that is read as this pair."""
    row = {
        "id": pair.id,
        "prompt": list(pair.prompt),
        "chosen": _written(pair.answers[0]),
        "rejected": _written(pair.answers[1]),
        "meta": pair.meta,
        "chosen_cut": pair.chosen_cut,
        "rejected_cut": pair.rejected_cut,
        "tools": list(pair.tools),
    }
    return {name: value for name, value in row.items() if value or name == "id"}


def _written(answer: Answer) -> str | list[dict[str, Any]]:
    more = answer.turn.keys() > {"role", "content"}
    return [answer.turn] if more else answer.turn["content"]


@contextmanager
def named(files: Mapping[Path | str, str]) -> Iterator[None]:
    """Within it, an error about line 4 of one of these files is about `name[3]`."""
    try:
        yield
    except DpoError as error:
        what, where, hint = error.what, error.where, error.hint
        for path, name in files.items():
            if where.startswith(str(path)):
                what = re.sub(r"\blines (\d+(?:, \d+)*)", lambda lines, n=name: _pairs(lines[1], n), what)
            what, where, hint = (_renamed(text, str(path), name) for text in (what, where, hint))
        raise error.instead(what=what, where=where, hint=hint) from None


def _renamed(text: str, path: str, name: str) -> str:
    text = re.sub(re.escape(path) + r":(\d+)", lambda line: _pairs(line[1], name), text)
    return text.replace(path, name)


def _pairs(lines: str, name: str) -> str:
    return ", ".join(f"{name}[{int(line) - 1}]" for line in lines.split(", "))
