"""Documents of a user: a text file with one a line, a folder of text files, or rows with a field."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..data.file_kinds import kind_of_file
from ..data.row_files import open_rows, row_files_in
from ..data.table_rows import table_rows
from ..errors import DpoError, first_ten, quoted
from ..storage.jsonl import parse_line, read_lines
from ..storage.reading import entries, expanded, files_in, is_folder, is_there, opened, path_text, read_text

_TEXT = (".txt", ".text")


class Document(NamedTuple):
    """A text, its label if labels are asked for, and "file:line"."""

    text: str
    label: str | None
    where: str


def read_documents(source: str | Sequence[str], field: str, label: str | None) -> list[Document]:
    """All documents that a source names; blank ones are left out.

    Args:
        source: a text file, a folder, a file of rows, a data set on the Hub, or a list of these.
        field: the field of a row with the text.
        label: the field of a row with the label; of files in the folders of a folder, the folder's name is
            the label.

    Raises:
        DpoError: a file is missing or cannot be read, or a row has no such field.
    """
    if not isinstance(source, str):
        return [document for one in source for document in read_documents(one, field, label)]
    path = expanded(source)
    if not is_there(path):
        found = _rows(source, field, label)
    elif is_folder(path):
        texts = _text_files(path)
        if not texts and not row_files_in(path):
            what = "has no files of texts (.txt) or rows (.jsonl, .json, .csv, .tsv, .parquet)"
            hint = "save each document as a text file, or all of them as rows"
            raise DpoError(what, where=path_text(path), hint=hint)
        found = _files(path, texts, label) if texts else _rows(source, field, label)
    elif path.suffix.lower() in _TEXT:
        if label is not None:
            what = f"has no labels, but corpus.label is {quoted(label)}"
            hint = "set corpus.label=null, or give rows with the field of the label"
            raise DpoError(what, where=path_text(path), hint=hint)
        found = _text_lines(path)
    else:
        found = _rows(source, field, label)
    return [document for document in found if document.text.strip()]


def _text_lines(path: Path) -> Iterator[Document]:
    name = path_text(path)
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            where = f"{name}:{number}"
            try:
                yield Document(line.decode("utf-8-sig" if number == 1 else "utf-8"), None, where)
            except UnicodeDecodeError:
                raise DpoError("is not UTF-8 text", where=where, hint="save the file as UTF-8") from None


def _text_files(folder: Path) -> list[Path]:
    """The text files in a folder and in the folders inside it, sorted by path."""
    inside = [one for one in entries(folder) if is_folder(one) and not one.name.startswith(".")]
    return [file for place in (folder, *inside) for file in files_in(place, *(f"*{end}" for end in _TEXT))]


def _files(folder: Path, files: Sequence[Path], label: str | None) -> Iterator[Document]:
    loose = [file.name for file in files if file.parent == folder]
    if label is not None and loose:
        what = f"has text files outside of the folders that would be their labels: {first_ten(loose)}"
        hint = "move them into folders named like their labels, or set corpus.label=null"
        raise DpoError(what, where=path_text(folder), hint=hint)
    for file in files:
        yield Document(read_text(file), None if label is None else file.parent.name, path_text(file))


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
        yield Document(text, None if label is None else _label(row, label, where), where)


def _numbered(source: str) -> Iterator[tuple[str, bytes]]:
    """ "file:line" and each row as JSON."""
    path = expanded(source)
    if path.suffix.lower() == ".csv" and is_there(path) and kind_of_file(path).plain:  # a single column
        with opened(path) as file:
            name = path_text(path)
            yield from ((f"{name}:{line}", text) for line, text in table_rows(file, name, ","))
        return
    rows = open_rows(source)
    yield from ((rows.where(number), line) for number, _, line in read_lines(rows.path))


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
    return str(value)
