"""Documents of a user: a text file with one a line, a folder of text files, or rows with a field."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..console import plural, say
from ..data.row_files import open_rows, row_files, row_files_in
from ..errors import DpoError, first_ten, quoted
from ..storage.jsonl import parse_line, read_lines
from ..storage.reading import (
    entries,
    expanded,
    files_in,
    is_folder,
    is_there,
    opened,
    path_text,
    read_text,
    readable,
)

_TEXT = (".txt", ".text")


class Document(NamedTuple):
    """A text, its label if labels are asked for, "file:line", and its bytes in the source."""

    text: str
    label: str | None
    where: str
    size: int


def source_bytes(source: str | Sequence[str]) -> int:
    """The size of the files that a source names; errors as for `read_documents`."""
    if not isinstance(source, str):
        return sum(map(source_bytes, source))
    path = expanded(source)
    if _is_text(path):
        files = [path]
    else:
        files = _text_files(path) or [file.path for file in row_files(_folder(source, path))]
    total = 0
    for file in files:
        with readable(file):
            total += file.stat().st_size
    return total


def read_documents(source: str | Sequence[str], field: str, label: str | None) -> Iterator[Document]:
    """All documents that a source names, one by one; blank ones are left out.

    Args:
        source: a text file, a folder, a file of rows, a data set on the Hub, or a list of these.
        field: the field of a row with the text.
        label: the field of a row with the label; of files in the folders of a folder, the folder's name is
            the label.

    Raises:
        DpoError: a file is missing or cannot be read, or a row has no such field.
    """
    if not isinstance(source, str):
        for one in source:
            yield from read_documents(one, field, label)
        return
    path = expanded(source)
    if _is_text(path):
        if label is not None:
            what = f"has no labels, but corpus.label is {quoted(label)}"
            hint = "set corpus.label=null, or give rows with the field of the label"
            raise DpoError(what, where=path_text(path), hint=hint)
        found = _text_lines(path)
    elif texts := _text_files(path):
        found = _files(path, texts, label)
    else:
        found = _rows(_folder(source, path), field, label)
    for document in found:
        if "\0" in document.text:
            hint = "save the texts as UTF-8; a NUL often comes from UTF-16"
            raise DpoError("contains a NUL character", where=document.where, hint=hint)
        if document.text.strip():
            yield document


def _is_text(path: Path) -> bool:
    """Whether this is a text file with a document on each line, going by its name."""
    return path.suffix.lower() in _TEXT and is_there(path) and not is_folder(path)


def _folder(source: str, path: Path) -> str:
    """The source again, unless it is a folder without files of rows."""
    if is_folder(path) and not row_files_in(path):
        what = "has no files of texts (.txt) or rows (.jsonl, .json, .csv, .tsv, .parquet)"
        hint = "save each document as a text file, or all of them as rows"
        raise DpoError(what, where=path_text(path), hint=hint)
    return source


def _text_lines(path: Path) -> Iterator[Document]:
    name = path_text(path)
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            where = f"{name}:{number}"
            if b"\r" in line.rstrip(b"\r\n") and not line.endswith(b"\n") and number == 1:
                hint = f"turn them into line feeds: tr '\\r' '\\n' < {shlex.quote(name)} > new.txt"
                raise DpoError("has the line ends of old Macs (CR)", where=name, hint=hint)
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                raise DpoError("is not UTF-8 text", where=where, hint="save the file as UTF-8") from None
            yield Document(text, None, where, len(line))


def _text_files(folder: Path) -> list[Path]:
    """The text files in a folder and in the folders inside it, sorted by path; none if it is not a folder."""
    return [file for place in _places(folder) for file in files_in(place, *(f"*{end}" for end in _TEXT))]


def _places(folder: Path) -> list[Path]:
    """A folder and the folders inside it."""
    if not is_folder(folder):
        return []
    inside = [one for one in entries(folder) if is_folder(one) and not one.name.startswith(".")]
    return [folder, *inside]


def _files(folder: Path, files: Sequence[Path], label: str | None) -> Iterator[Document]:
    loose = [file.name for file in files if file.parent == folder]
    if label is not None and loose:
        what = f"has text files outside of the folders that would be their labels: {first_ten(loose)}"
        hint = "move them into folders named like their labels, or set corpus.label=null"
        raise DpoError(what, where=path_text(folder), hint=hint)
    rows = [file.relative_to(folder).as_posix() for place in _places(folder) for file in row_files_in(place)]
    if rows:
        say(f"{path_text(folder)}: {plural(len(files), 'text file')}; not read: {first_ten(rows)}")
    for file in files:
        where = path_text(file)
        name = None if label is None else _one_line(file.parent.name, where)
        text = read_text(file)
        yield Document(text, name, where, file.stat().st_size)


def _rows(source: str, field: str, label: str | None) -> Iterator[Document]:
    for where, line in _numbered(source):
        try:
            row = parse_line(line, where)
        except DpoError as error:
            if error.code not in ("not-json", "not-an-object"):
                raise
            hint = f'each line must be an object, such as {{"{field}": "..."}}; text files end in .txt'
            raise error.instead(hint=hint) from None
        text = _value(row, field, "corpus.field", where)
        if not isinstance(text, str):
            hint = "set corpus.field to a field with text"
            raise DpoError(f"{quoted(field)} is not text: {quoted(text)}", where=where, hint=hint)
        yield Document(text, None if label is None else _label(row, label, where), where, len(line))


def _numbered(source: str) -> Iterator[tuple[str, bytes]]:
    """ "file:line" and each row as JSON."""
    try:
        rows = open_rows(source)
        yield from ((rows.where(number), line) for number, _, line in read_lines(rows.path))
    except DpoError as error:
        if error.code != "line-too-long":
            raise
        raise error.instead(hint="remove it, or shorten its text") from None


def _value(row: Mapping[str, Any], name: str, setting: str, where: str) -> Any:
    if name not in row:
        hint = f"set {setting} to one of the fields: {first_ten(list(row))}"
        raise DpoError(f"has no field {quoted(name)}", where=where, hint=hint)
    return row[name]


def _label(row: Mapping[str, Any], name: str, where: str) -> str:
    value = _value(row, name, "corpus.label", where)
    if isinstance(value, (dict, list)) or value is None:
        hint = "a label is a text or a number; leave out rows without one"
        raise DpoError(f"{quoted(name)} is not a label: {quoted(value)}", where=where, hint=hint)
    return _one_line(str(value), where)


def _one_line(label: str, where: str) -> str:
    if "\n" in label or "\r" in label:
        hint = "write each label on one line: label_names.txt has a label on each line"
        raise DpoError(f"the label {quoted(label)} has a line break", where=where, hint=hint)
    return label
