"""Pairs in memory, which are checked and tokenised like the rows of a file."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..data import sources
from ..data.row_files import Source
from ..errors import DpoError, first_line
from ..records import Answer, Preference
from ..storage.files import write_text

Pairs = str | Path | Iterable[Mapping[str, Any] | Preference | str | Path]
"""A file, a folder, a data set on the Hub or a list of these; or rows: dicts as in data/README.md, or what
`read_pairs` gave.
"""


def read_pairs(source: Pairs) -> list[Preference]:
    """Check pairs and return them as a list: `prompt` (messages), `chosen`, `rejected` (text), `id`, `meta`.

    Args:
        source: a file, a folder, a data set on the Hub (org/name:split), or a list of these; or dicts with
            "prompt", "chosen" and "rejected": texts or message lists. All formats of data/README.md are read.

    Raises:
        DpoError: a row is bad, an id occurs twice, or there are no rows. `where` is "file:line", or
            "pairs[3]" in memory.
    """
    with as_file(source) as path:
        pairs = sources.read_pairs(path)
    if not in_memory(source):
        return pairs
    return [replace(pair, where=_renamed(pair.where, str(path), "pairs")) for pair in pairs]


def in_memory(pairs: Pairs | None) -> bool:
    """Whether `pairs` are rows, not the name of a file or a list of names."""
    return pairs is not None and not isinstance(pairs, (str, Path)) and not _are_names(pairs)


def _are_names(pairs: Any) -> bool:
    return isinstance(pairs, (list, tuple)) and bool(pairs) and all(isinstance(p, (str, Path)) for p in pairs)


@contextmanager
def as_file(pairs: Pairs, name: str = "pairs") -> Iterator[Source]:
    """The file of these pairs; for pairs in memory a temporary file, and errors name the pair: "pairs[3]".

    Raises:
        DpoError: a row is not a dict, or JSON cannot represent it.
    """
    if not in_memory(pairs):
        yield pairs
        return
    with TemporaryDirectory(prefix="mlx_dpo_") as folder:
        path = Path(folder) / f"{name}.jsonl"
        write_text(path, rows_text(pairs, name))
        with named({path: name}):
            yield path


def rows_text(pairs: Iterable[Mapping[str, Any] | Preference], name: str) -> str:
    """Pairs in memory as JSONL; line n+1 is pair n.

    Raises:
        DpoError: a row is not a dict, or JSON cannot represent it.
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
                hint="a row may contain texts, numbers, True or False, None, lists and dicts",
            ) from None
    return "".join(f"{line}\n" for line in lines)


def as_row(pair: Preference) -> dict[str, Any]:
    """The row from which this pair would be read."""
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
    """Within it, an error about line 4 of one of these files names `name[3]` instead."""
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
