"""Files of rows in every form, JSON, tables, Parquet, compressed: read, and converted once."""

import bz2
import gzip
import io
import json
import lzma

import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest

from mlx_dpo.data import json_rows, row_files
from mlx_dpo.data.row_files import open_rows
from mlx_dpo.data.row_index import index_rows
from mlx_dpo.data.sources import read_pairs, read_questions
from mlx_dpo.errors import DpoError

from ..support.mistakes import lines, pair
from .file_contents import LINES, OBJECTS, PRETTY, ROWS, arrow, parquet, table
from .row_fixtures import PAIRS

FILES = {
    "JSONL": (LINES, "", [1, 2, 3]),
    "a JSON list": (json.dumps(ROWS), "a JSON list", [1, 2, 3]),
    "a JSON list over several lines": (PRETTY, "a JSON list", [2, 7, 12]),
    "two JSON lists": (f"{json.dumps(ROWS[:2])}\n{json.dumps(ROWS[2:])}\n", "a JSON list", [1, 2, 3]),
    "a JSON list with a byte order mark": (("\ufeff" + PRETTY).encode(), "a JSON list", [2, 7, 12]),
    "objects over several lines": ("\n".join(OBJECTS), "JSON objects", [1, 6, 11]),
    "objects with blank lines": ("\ufeff" + "\n \n".join(OBJECTS), "JSON objects", [1, 7, 13]),
    "an object that holds the rows": (
        json.dumps({"version": 1, "about": {"data": [{}]}, "data": ROWS}, indent=2),
        "the list 'data' of a JSON object",
        [9, 14, 19],
    ),
    "an object on one line": (
        json.dumps({"train": ROWS, "validation": ROWS[:1], "version": 1}),
        "the list 'train' of a JSON object",
        [1, 2, 3],
    ),
    "CSV": (table(","), "CSV", [2, 4, 5]),
    "CSV with line feeds": (table(",").replace("\r\n", "\n"), "CSV", [2, 4, 5]),
    "CSV with semicolons": (table(";"), "CSV with semicolons", [2, 4, 5]),
    "CSV with a byte order mark": ("\ufeff" + table(","), "CSV", [2, 4, 5]),
    "TSV": (table("\t"), "TSV", [2, 4, 5]),
    "Parquet": (parquet(), "Parquet", [1, 2, 3]),
    "Parquet in row groups": (parquet(row_group_size=1), "Parquet", [1, 2, 3]),
    "Feather": (arrow(), "Arrow", [1, 2, 3]),
    "an Arrow stream": (arrow(new=pyarrow.ipc.new_stream), "Arrow", [1, 2, 3]),
    "gzip": (gzip.compress(LINES.encode()), "JSONL (gzip)", [1, 2, 3]),
    "gzipped CSV": (gzip.compress(table(",").encode()), "CSV (gzip)", [2, 4, 5]),
    "a gzipped JSON list": (gzip.compress(PRETTY.encode()), "a JSON list (gzip)", [2, 7, 12]),
    "bzip2": (bz2.compress(LINES.encode()), "JSONL (bzip2)", [1, 2, 3]),
    "xz": (lzma.compress(table("\t").encode()), "TSV (xz)", [2, 4, 5]),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_is_read_whatever_its_form_and_its_rows_are_named_by_line(kind, write):
    content, told, numbers = FILES[kind]
    file = write("my files/pairs.data", content)
    for _ in range(2):  # converted, then found
        index = index_rows(file)
        assert [(p.prompt[0]["content"], p.chosen, p.rejected) for p in index.records()] == [
            (row["prompt"], row["chosen"].strip(), row["rejected"]) for row in ROWS
        ]
        assert [index.where(i) for i in range(3)] == [f"{file}:{number}" for number in numbers]
        assert list(index.source.descriptions()) == ([f"{file}: {told}"] if told else [])
    assert read_pairs(file) == [index.read(i) for i in range(3)]


def test_every_format_gives_the_same_pairs_from_every_kind_of_file(write):
    kinds = {
        "jsonl": lines,
        "json": lambda *rows: json.dumps(rows, indent=1),
        "csv": lambda *rows: table(",", [{k: as_cell(v) for k, v in row.items()} for row in rows]),
        "parquet": lambda *rows: parquet(rows),
    }
    for name, (rows, _) in PAIRS.items():
        for row in rows:
            found = {}
            for kind, make in kinds.items():
                file = write(f"rows.{kind}", make(row))
                found[kind] = [(p.prompt, p.chosen, p.rejected, p.meta) for p in read_pairs(file)]
            assert found["jsonl"] == found["json"] == found["csv"] == found["parquet"], name


def as_cell(value):
    """As tables hold it: lists as JSON, here and there as Python prints them."""
    if isinstance(value, list):
        return str(value) if len(value) % 2 else json.dumps(value)
    return json.dumps(value) if isinstance(value, dict) else value


def test_an_index_column_of_pandas_is_not_used(write):
    file = write("pairs.csv", ",prompt,chosen,rejected\n0,How?,So.,Thus.\n\n1,Why?,So.,Thus.\n")
    assert [row.where for row in read_pairs(file)] == [f"{file}:2", f"{file}:4"]


def test_a_column_of_texts_that_parquet_holds_as_bytes_is_read(write):
    file = write("rows.parquet", parquet([pair(prompt=b"How?", chosen="Où?".encode())]))
    assert [(row.prompt[0]["content"], row.chosen) for row in read_pairs(file)] == [("How?", "Où?")]


def test_dates_that_python_does_not_know_stop_nothing(write):
    far = pyarrow.array([2**62], pyarrow.timestamp("us"))
    fine = pyarrow.array([1], pyarrow.timestamp("ns"))
    columns = {name: pyarrow.array([text]) for name, text in pair().items()}
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({**columns, "far": far, "fine": fine}), sink)
    index = index_rows(write("rows.parquet", sink.getvalue()))
    assert len(index) == 1 and index.unused == {"far": 1, "fine": 1}


def test_a_table_with_a_single_column_of_prompts_is_one(write):
    file = write("prompts.csv", 'prompt\nHow?\n"Why, so?"\n')
    assert [row.prompt[0]["content"] for row in read_questions(file)] == ["How?", "Why, so?"]


def test_a_file_is_converted_once(write, cache, monkeypatch):
    file = write("rows.csv", table(","))
    index_rows(file)
    monkeypatch.setattr(row_files, "_convert", None)  # a second conversion would fail
    index_rows(file)
    index_rows(write("moved.csv", table(",")))


def test_a_file_that_changes_while_it_is_read_is_an_error(write):
    file = write("rows.csv", table(","))
    rows = open_rows(file)
    write("rows.csv", table(",", ROWS[:2]))
    with pytest.raises(DpoError, match=r"rows.csv: changed while it was read"):
        rows.check_unchanged()


def test_rows_of_a_file_that_changes_during_its_conversion_are_not_kept(write, monkeypatch):
    file, convert = write("rows.csv", table(",")), row_files._convert

    def convert_what_comes_later(*given):
        write("rows.csv", table(",", ROWS[:1]))
        return convert(*given)

    with monkeypatch.context() as during:
        during.setattr(row_files, "_convert", convert_what_comes_later)
        with pytest.raises(DpoError, match=r"rows.csv: changed while it was read"):
            index_rows(file)
    assert len(index_rows(write("rows.csv", table(",")))) == 3


def test_another_way_of_converting_makes_another_index(write, monkeypatch):
    """The index has the places of rows in the converted file."""
    file = write("rows.csv", table(","))
    before = index_rows(file)
    monkeypatch.setattr(row_files, "_VERSION", row_files._VERSION + 1)
    monkeypatch.setattr(row_files, "_convert", shifted(row_files._convert))
    after = index_rows(file)
    assert before.places.tolist() != after.places.tolist()
    assert [after.read(i).prompt for i in range(3)] == [before.read(i).prompt for i in range(3)]


def shifted(convert):
    """The conversion, with a space after each comma of the rows."""

    def write(files, kinds, folder):
        facts = convert(files, kinds, folder)
        rows = (folder / "rows.jsonl").read_bytes().replace(b'", "', b'",  "')
        (folder / "rows.jsonl").write_bytes(rows)
        return {"parts": [(1, 0, len(rows))]} if facts else {}

    return write


def test_a_conversion_that_is_killed_leaves_nothing_and_is_made_again(write, cache, monkeypatch):
    file, dumped = write("rows.parquet", parquet()), json.dumps

    def stop(row, **more):
        if isinstance(row, dict) and row.get("prompt") == "How 1?":
            raise KeyboardInterrupt
        return dumped(row, **more)

    monkeypatch.setattr(json_rows.json, "dumps", stop)
    with pytest.raises(KeyboardInterrupt):
        index_rows(file)
    monkeypatch.undo()
    monkeypatch.setenv("MLX_DPO_CACHE", str(cache))
    assert not list((cache / "rows_jsonl").glob("*/rows.jsonl"))
    assert len(index_rows(file)) == 3


OWN = {
    "rows": LINES,
    "rows with a byte order mark": "\ufeff" + LINES,
    "blank lines first": "\n\n" + LINES,
    "a broken row first": '{"prompt": "How?"\n' + LINES,
    "a list for a row": '["How?", "So.", "Thus."]\n' + LINES,
    "a text for a row": '"How, so?"\n' + LINES,
    "rows that begin with data of their own": json.dumps({"data": [{"a": 1}], **ROWS[0]}) + "\n",
    "nothing": "",
}


@pytest.mark.parametrize("kind", OWN)
def test_what_may_be_jsonl_is_read_in_place(kind, write):
    file = write("pairs.jsonl", OWN[kind])
    assert open_rows(file).path == file
