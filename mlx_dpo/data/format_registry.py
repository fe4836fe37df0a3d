"""The registry of row formats of other tools: how each is recognised, and its rows in our own form."""

import ast
import functools
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from ..errors import DpoError
from .messages import OTHER_ROLES, kind_of

Row = dict[str, Any]


class Kind(NamedTuple):
    """What values of a column are, in words, and whether a value is one."""

    name: str
    accepts: Callable[[Any], bool]


def _are_turns(value: Any) -> bool:
    names = ({"role"}, {"from", "value"})
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, dict) and any(own <= turn.keys() for own in names) for turn in value)
    )


TEXT = Kind("text", lambda value: isinstance(value, str))
INTEGER = Kind(
    "a whole number",
    lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and value % 1 == 0,
)  # pandas writes 1.0 if a column has a gap
LIST = Kind("a list", lambda value: isinstance(value, list))
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
TURNS = Kind("a list of messages", _are_turns)
CONVERSATION = Kind("a list of messages", lambda value: _are_turns(value) and len(value) > 1)
ANY = Kind("anything", lambda value: True)


class RowFormat(NamedTuple):
    """A format: a row has it if it has the columns `needs`, with values of their kinds, and passes `test`.

    `rows` gives the row in our own form: one row for each pair, or one with an answer. Its errors need no
    place. Columns that are in
    neither `needs` nor `uses` are passed on to our own form. `names`: our columns by their names in this
    format, for messages. `note`: what a user should know about the conversion.
    """

    name: str
    needs: Mapping[str, Kind]
    rows: Callable[[Row], list[Row]]
    uses: frozenset[str] = frozenset()
    test: Callable[[Row], bool] = lambda row: True
    names: Mapping[str, str] = {}
    note: str = ""

    @property
    def columns(self) -> frozenset[str]:
        """All columns that the conversion uses."""
        return self.uses | self.needs.keys()

    def fits(self, row: Row) -> bool:
        """Whether the row has this format."""
        return all(name in row and kind.accepts(row[name]) for name, kind in self.needs.items()) and (
            self.test(row)
        )


FORMATS: dict[str, RowFormat] = {}
"""By name, in the order in which they are tried; the files of formats fill it when they are imported."""


class NoPairError(Exception):
    """A row that is complete but makes no pair, such as a tie; the text is the reason."""


def row_format(
    name: str,
    needs: Mapping[str, Kind],
    uses: str = "",
    *,
    test: Callable[[Row], bool] = lambda row: True,
    names: Mapping[str, str] | None = None,
    note: str = "",
) -> Callable[[Callable[[Row], list[Row]]], Callable[[Row], list[Row]]]:
    """Register the function below as the conversion of a format, see `RowFormat`.

    Args:
        uses: further columns that the conversion uses, separated by spaces.
    """

    def register(rows: Callable[[Row], list[Row]]) -> Callable[[Row], list[Row]]:
        FORMATS[name] = RowFormat(name, needs, rows, frozenset(uses.split()), test, names or {}, note)
        return rows

    return register


def renamed(name: str, columns: Mapping[str, str], uses: str = "") -> None:
    """Register a format that only has other names for our columns: `columns`, theirs by ours."""
    needs = {theirs: TEXT if ours == "prompt" else ANY for ours, theirs in columns.items()}
    row_format(name, needs, uses, names=columns)(
        lambda row: [{ours: row[theirs] for ours, theirs in columns.items()}]
    )


def detected(rows: Iterable[Row]) -> RowFormat | None:
    """The format that most of these rows have; None for our own form, or for none that is known."""
    found = Counter(form.name if (form := format_of(row)) else "" for row in rows)
    return FORMATS.get(max(found, key=found.__getitem__, default=""))


def format_of(row: Row) -> RowFormat | None:
    """The first format that fits the row."""
    return next((form for form in FORMATS.values() if form.fits(row)), None)


def converted(row: Row, where: str, form: RowFormat) -> list[Row]:
    """The row in our own form: one row for each of its pairs.

    Raises:
        DpoError: the row has another format than the first rows of its file, or cannot be converted.
        NoPairError: the row makes no pair.
    """
    if not form.fits(row):
        raise _misfit(row, where, form)
    rest = {name: value for name, value in row.items() if name not in form.columns}
    try:
        return [{**rest, **own} for own in form.rows(row)]
    except DpoError as error:
        raise error.instead(where=where) from None


def _misfit(row: Row, where: str, form: RowFormat) -> DpoError:
    if other := format_of(row):
        return other_format(other, where, form.name)
    hint = f"the rows of this file have the format {form.name!r}: correct this row, or remove it"
    code, what = "other-format", "does not look like the first rows of its file"
    for name, kind in form.needs.items():
        if name not in row:
            what = f"'{name}' is missing"
            break
        if not kind.accepts(row[name]):
            code, what = "wrong-type", f"'{name}' must be {kind.name}, got {kind_of(row[name])}"
            break
    return DpoError(what, where=where, hint=hint, code=code)


def other_format(found: RowFormat, where: str, expected: str) -> DpoError:
    """What to raise for a row of another format than the first rows of its file."""
    return DpoError(
        f"has the format {found.name!r}, but the first rows of the file have {expected!r}",
        where=where,
        hint="put the rows of each format into a separate file, and list the files in data.train",
        code="other-format",
    )


def in_their_words(error: DpoError, form: RowFormat) -> DpoError:
    """An error about our own form, with the names of the columns in the user's file."""
    text = error.what
    for ours, theirs in form.names.items():
        text = text.replace(f"'{ours}'", f"'{theirs}'")
    return error.instead(what=text)


_NUMBERS = re.compile("score|rating|rank")
_OWN_VALUES = {"messages", "tools", "meta", "chosen_cut", "rejected_cut", "label", "kto_tag", "history"}
_OWN_TEXTS = {"prompt", "chosen", "rejected", "answer", "question", "completion", "system", "id", "input"}


def cell_value(name: str, text: str) -> Any:
    """The value of a table's cell: text, or the list or object that it holds where the column may have one.

    Lists may be written as JSON, or as Python prints them (as pandas does). In a column of texts, only
    messages are read.
    """
    values, texts = _columns_of_tables()
    number = name in values - texts or _NUMBERS.search(name)
    if not number and text.lstrip()[:1] not in ("[", "{"):
        return text
    value = _literal(text.strip())
    if isinstance(value, (list, dict)):
        return value if name not in texts - values or _are_turns(value) or _are_turns([value]) else text
    return value if number else text


@functools.cache
def _columns_of_tables() -> tuple[set[str], set[str]]:
    """The columns that hold something else than text in some format, and those that hold text in some."""
    kinds = [pair for form in FORMATS.values() for pair in form.needs.items()]
    values = {name for name, kind in kinds if kind in (INTEGER, LIST, OBJECT)}
    return values | _OWN_VALUES, {name for name, kind in kinds if kind is TEXT} | _OWN_TEXTS


def _literal(text: str) -> Any:
    for read in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            return read(text)
    return text


def joined(*texts: Any) -> Any:
    """Texts with a blank line between them; those that are empty or missing are left out."""
    given = [
        text for text in texts if text not in (None, "") and not (isinstance(text, str) and text.isspace())
    ]
    if not all(isinstance(text, str) for text in given):
        return given[0] if len(given) == 1 else given
    return "\n\n".join(text.strip() for text in given)


def as_turns(value: Any) -> Any:
    """ShareGPT turns (from, value) as messages (role, content); anything else as it is."""
    if isinstance(value, dict) and {"from", "value"} <= value.keys():
        role = value["from"]
        other = {name: held for name, held in value.items() if name not in ("from", "value")}
        return {
            **other,
            "role": OTHER_ROLES.get(role, role) if isinstance(role, str) else role,
            "content": value["value"],
        }
    return [as_turns(turn) for turn in value] if isinstance(value, list) else value


def as_answer(value: Any) -> Any:
    """An answer that is a text, a message or a list of messages, as our own form takes it."""
    value = as_turns(value)
    return [value] if isinstance(value, dict) else value


def number_of(value: Any) -> float | None:
    """A number, or the number that a text writes; None for anything else, and for what is not finite."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def text_in(held: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The first of these values that is there; None if there is none."""
    return next((held[name] for name in names if held.get(name) is not None), None)


def only_one(row: Row, names: Sequence[str]) -> Any:
    """The value of the only one of these columns that is not empty; None if all are empty.

    Raises:
        DpoError: two of them have different values, so one of them would be lost.
    """
    given = {name: row[name] for name in names if row.get(name)}
    first = next(iter(given), None)
    if other := next((name for name in given if given[name] != given[first]), None):
        raise DpoError(
            f"has both '{first}' and '{other}', and only one of them can be the prompt",
            hint=f"put all of the prompt into '{first}', and remove '{other}'",
            code="left-out",
        )
    return given.get(first)
