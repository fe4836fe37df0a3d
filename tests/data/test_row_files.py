"""Files of rows in every form: JSON, tables, Parquet, compressed, folders and lists; and what is refused."""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import random
import shlex
import subprocess
from pathlib import Path

import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest

from mlx_dpo.config import load_config
from mlx_dpo.data import columnar_rows, json_rows, row_files
from mlx_dpo.data.row_files import open_rows
from mlx_dpo.data.row_index import index_rows, shared_prompts
from mlx_dpo.data.sources import read_curated, read_pairs, read_questions
from mlx_dpo.errors import DpoError

from ..support.mistakes import assert_told, cases, lines, pair
from .row_fixtures import PAIRS

ROWS = [
    {"prompt": "How 0?", "chosen": 'So,\n"well"', "rejected": "} {"},
    {"prompt": "How 1?", "chosen": "[1]\u2028so", "rejected": "Où?"},
    {"prompt": '{"a": 1}', "chosen": "So\t;", "rejected": "So\\"},
]
LINES = lines(*ROWS)


def table(delimiter, rows=ROWS):
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def parquet(rows=ROWS, **more):
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink, **more)
    return sink.getvalue()


def arrow(rows=ROWS, new=pyarrow.ipc.new_file):
    sink, content = io.BytesIO(), pyarrow.Table.from_pylist(rows)
    with new(sink, content.schema) as writer:
        writer.write_table(content)
    return sink.getvalue()


PRETTY = json.dumps(ROWS, indent=2)
OBJECTS = [json.dumps(row, indent=2) for row in ROWS]
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


@pytest.fixture
def write(tmp_path):
    def to(name, content):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    return to


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


# ---- several files


def test_a_folder_and_a_list_of_files_are_read_as_one(write, tmp_path):
    first = write("set/a.csv", table(","))
    second = write("set/b.jsonl.gz", gzip.compress((LINES.replace("How", "Why")).encode()))
    write("set/README.md", "# Rows")
    for source in (tmp_path / "set", [first, second], [str(first), str(tmp_path / "set" / "b.jsonl.gz")]):
        index = index_rows(source)
        assert [index.where(i) for i in range(6)] == [
            *(f"{first}:{line}" for line in (2, 4, 5)),
            *(f"{second}:{line}" for line in (1, 2, 3)),
        ]
        assert [row.id for row in index.records()][2:4] == [f"{first}:line-5", f"{second}:line-1"]
        assert [index.read(i) for i in range(6)] == read_pairs(source)


def test_files_of_a_list_may_have_different_formats(write):
    own = write("own.jsonl", lines(pair(id=1)))
    hh = write("hh.jsonl", lines(*PAIRS["HH-RLHF transcripts"][0]))
    index = index_rows([own, hh])
    assert len(index) == 4 and list(index.source.descriptions()) == [f"{hh}: HH-RLHF transcripts"]


def test_files_of_one_kind_are_described_on_one_line(write):
    files = [write(f"{name}.csv", table(",", [{**row, "prompt": name} for row in ROWS])) for name in "abc"]
    hh = write("hh.jsonl", lines(*PAIRS["HH-RLHF transcripts"][0]))
    described = [f"{files[0]} and 2 other files: CSV", f"{hh}: HH-RLHF transcripts"]
    assert list(open_rows([*files, hh]).descriptions()) == described


def test_the_same_id_in_two_files_is_no_mistake_but_a_file_twice_is(write):
    files = [write(f"{name}.jsonl", lines(pair(id=1, prompt=name))) for name in "ab"]
    assert [row.id for row in read_pairs(files)] == [f"{file}:1" for file in files]
    with pytest.raises(DpoError, match="is also used at"):
        read_pairs([files[0], files[0]])


def test_a_bad_row_of_a_list_is_named_by_its_own_file(write):
    files = [write("a.jsonl", LINES), write("b.jsonl", lines(pair(), {"prompt": "How?"}))]
    with pytest.raises(DpoError) as caught:
        index_rows(files)
    assert_told(caught.value, f"{files[1]}:2", "'chosen' is missing", code="missing-chosen")


def test_a_prompt_is_found_across_lists_of_files(write):
    train = index_rows([write("a.csv", table(",")), write("b.jsonl", lines(pair()))])
    held = index_rows(
        [write("c.jsonl", lines(pair(prompt="Who?"))), write("d.jsonl", lines(pair(prompt="how 1?")))]
    )
    assert [held.where(i) for i in shared_prompts(held, train)] == [held.where(1)]


def test_a_folder_with_held_out_rows_beside_the_training_rows_is_refused(write, tmp_path):
    for name in ("train.jsonl", "valid.jsonl"):
        write(f"set/{name}", LINES)
    with pytest.raises(DpoError) as caught:
        open_rows(tmp_path / "set")
    assert_told(
        caught.value, str(tmp_path / "set"), "files of several splits (train.jsonl, valid.jsonl)", "name one"
    )


HELD_OUT_BESIDE = [("a.jsonl", "a-test.jsonl"), ("my_train.csv", "my_Valid.csv"), ("x.json", "x.held.json")]


@pytest.mark.parametrize("names", HELD_OUT_BESIDE)
def test_held_out_rows_are_known_by_a_word_anywhere_in_the_name(names, write, tmp_path):
    for name in names:
        write(f"set/{name}", LINES)
    with pytest.raises(DpoError, match="files of several splits"):
        open_rows(tmp_path / "set")


def test_of_a_mixed_folder_only_the_files_of_rows_are_read(write, tmp_path):
    """As `datasets` saves a set, with a file that an editor left and a folder whose name is like a file's."""
    files = [write("set/data-00000-of-00002.arrow", arrow()), write("set/more.latest.csv", table(","))]
    for name in ("dataset_info.json", "state.json", ".rows.jsonl", "README.md", "picture.png"):
        write(f"set/{name}", "{}")
    (tmp_path / "set" / "old.jsonl").mkdir()
    assert [part.name for part in open_rows(tmp_path / "set").parts] == [*map(str, files)]


def test_a_folder_of_folders_is_answered_with_where_files_must_be(write, tmp_path):
    write("set/train/rows.jsonl", LINES)
    with pytest.raises(DpoError) as caught:
        open_rows(tmp_path / "set")
    assert_told(
        caught.value, str(tmp_path / "set"), "without files of rows", "folders inside it are not searched"
    )


def test_a_list_of_files_is_a_setting():
    config = load_config(None, ["data.train=[~/a.jsonl, b.jsonl]", 'pairs.source=["c.jsonl"]'])
    assert config.data.train == [os.path.expanduser("~/a.jsonl"), "b.jsonl"]
    assert config.pairs.source == ["c.jsonl"]
    for bad, what in (("[]", "empty list"), ("[a, '']", "is not the name")):
        with pytest.raises(DpoError, match=what):
            load_config(None, [f"data.train={bad}"])


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


# ---- what is refused

HEADER = "prompt,chosen,rejected\n"
CUT = "is damaged or cut off"
NOISE = random.Random(0).randbytes(200_000).hex().encode()


def damaged(content, place=50_000):
    """With some bytes changed."""
    return content[:place] + bytes(255 - byte for byte in content[place : place + 20]) + content[place + 20 :]


def doubled_column():
    sink, names = io.BytesIO(), ["prompt", "chosen", "chosen", "rejected"]
    table = pyarrow.Table.from_arrays([pyarrow.array(["x"]) for _ in names], names=names)
    pyarrow.parquet.write_table(table, sink)
    return sink.getvalue()


BROKEN = {
    "a list that breaks off": ("a.json", PRETTY[:-3], ":16", "not JSON", "not-json"),
    "a list without its end": ("a.json", PRETTY[:-2], ":16", "ends before its list", "not-json"),
    "a wrong sign": ("a.json", PRETTY.replace('How 1?",', 'How 1?";'), ":8", "not JSON", "not-json"),
    "a number for a row": ("a.json", f"[{OBJECTS[0]},\n5]", ":6", "not an object", "not-an-object"),
    "a misspelt name": ("a.json", PRETTY.replace("chosen", "chose"), ":2", "missing", "missing-chosen"),
    "a name twice": ("a.json", PRETTY.replace("rejected", "chosen"), ":2", "twice", "written-twice"),
    "text behind a list": ("a.json", f"{PRETTY}\nand more", ":18", "has more text after", "not-json"),
    "half of a character in a cell": (
        "a.csv",
        HEADER + 'How?,"[{""role"": ""assistant"", ""content"": ""So \\ud83d""}]",Thus.\n',
        ":2",
        "half of a character",
        "half-character",
    ),
    "bytes in Parquet that are no text": (
        "a.pq",
        parquet([pair(chosen=b"So."), pair(chosen=b"\xff\xfe")]),
        ":2",
        "'chosen' must be text, got an object",
        "wrong-type",
    ),
    "a column of Parquet twice": ("a.pq", doubled_column(), "", "'chosen' is there twice", "written-twice"),
    "a bzip2 file that is damaged": ("a.bz2", damaged(bz2.compress(NOISE), 4), "", CUT, ""),
    "a bzip2 file that breaks off": ("a.bz2", bz2.compress(NOISE)[:-50], "", CUT, ""),
    "an xz file that is damaged": ("a.xz", damaged(lzma.compress(NOISE)), "", CUT, ""),
    "a gzip file that is damaged": ("a.gz", damaged(gzip.compress(NOISE)), "", CUT, ""),
    "no rows below the header": ("a.csv", HEADER, "", "has no rows", ""),
    "Latin-1": ("a.json", PRETTY.encode().replace(b"\\u00f9", b"\xf9"), ":10", "not UTF-8", "not-utf-8"),
    "a cell too many": ("a.csv", table(",") + "a,b,c,d\n", ":6", "has 4 cells", "bad-cells"),
    "a cell too few": ("a.csv", HEADER + "a,b\n", ":2", "has 2 cells", "bad-cells"),
    "a quote that stays open": ("a.csv", HEADER + 'a,b,c\na,"b,c\n', ":3", "not a row", "bad-cells"),
    "a quote in a cell": ("a.csv", HEADER + 'a,"b"c,d\n', ":2", "not a row of the table", "bad-cells"),
    "a column twice": ("a.csv", "prompt,chosen,chosen\na,b,c\n", ":1", "named twice", "written-twice"),
    "an empty cell": ("a.csv", HEADER + "a,b,c\na,,c\n", ":3", "'chosen' is empty", "empty-chosen"),
    "Latin-1 in a table": ("a.csv", table(",").encode("latin-1", "replace"), ":4", "UTF-8", "not-utf-8"),
    "null in Parquet": (
        "a.pq",
        parquet([pair(), pair(chosen=None)]),
        ":2",
        "'chosen' is empty",
        "empty-chosen",
    ),
    "a damaged Parquet file": ("a.parquet", parquet()[:-20], "", "is damaged", ""),
    "a damaged Arrow file": ("a.arrow", arrow()[:200], "", "is damaged", ""),
    "a gzip file that breaks off": ("a.gz", gzip.compress(LINES.encode())[:-12], "", CUT, ""),
    "a bad row in a gzip file": ("a.gz", gzip.compress(b'\n{"prompt": \n'), ":2", "not JSON", "not-json"),
    "a compressed Parquet file": ("a.gz", gzip.compress(parquet()), "", "compressed Parquet file", ""),
}


@cases(BROKEN)
def test_a_broken_file_is_refused_with_the_place(case, write):
    name, content, place, phrase, code = case
    file = write(name, content)
    with pytest.raises(DpoError) as caught:
        index_rows(file)
    assert_told(caught.value, f"{file}{place}", phrase, code=code)


def test_without_pyarrow_parquet_is_refused_with_the_command_that_installs_it(write, monkeypatch):
    monkeypatch.setattr(columnar_rows, "find_spec", lambda name: None)
    with pytest.raises(DpoError) as caught:
        index_rows(write("rows.parquet", parquet()))
    assert_told(caught.value, caught.value.where, "pyarrow", "pip install 'mlx-dpo[tables]'")
    assert len(index_rows(write("rows.csv.gz", gzip.compress(table(",").encode())))) == 3


NO_FILES = {
    "https://hub.co/rows.jsonl": ("a web address", "download"),
    "org/pairs": ("no such file or folder, and no data set", "check the name"),
    "data/*.jsonl": ("a pattern for several files", "give a folder"),
    "data/rows.jsonl": ("no such file", "check the path"),
}


@pytest.mark.parametrize("name", NO_FILES)
def test_what_is_no_file_is_answered_with_how_to_get_one(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    what, remedy = NO_FILES[name]
    for read in (index_rows, read_curated):
        with pytest.raises(DpoError) as caught:
            read(name)
        assert_told(caught.value, name, what, remedy)


def test_a_file_with_the_name_of_a_pattern_is_read(write):
    assert len(index_rows(write("rows [1].jsonl", LINES))) == 3


def test_the_printed_command_turns_utf_16_into_utf_8(write, tmp_path):
    file = write("my OUTPUT files/pairs.data", LINES.encode("utf-16"))
    with pytest.raises(DpoError) as caught:
        open_rows(file)
    command = caught.value.hint.removeprefix("turn it into UTF-8: ")
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    assert len(index_rows(shlex.split(command)[-1])) == 3


def test_the_printed_command_takes_a_name_with_a_leading_dash_for_a_name(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("-z.data", LINES.encode("utf-16"))
    with pytest.raises(DpoError) as caught:
        open_rows("-z.data")
    subprocess.run(caught.value.hint.removeprefix("turn it into UTF-8: "), shell=True, check=True)
    assert Path("-z-rows.jsonl").read_text(encoding="utf-8-sig") == LINES


NAMED = {
    "a spreadsheet": (b"PK\x03\x04\x14", "a spreadsheet", "CSV"),
    "zstd": (b"\x28\xb5\x2f\xfd", "zstd", "zstd -dc"),
    "a web page": (b"\n<!DOCTYPE html>\n<html>", "a web page", "download the file itself"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS", "git lfs pull"),
    "line ends of old Macs": (b"prompt,chosen,rejected\ra,b,c\r", "line ends of old Macs", "tr '"),
    "weights": (b"\x10\0\0\0\0\0\0\0{}", "is not text", "JSONL"),
}


@pytest.mark.parametrize("kind", NAMED)
def test_a_file_that_is_no_text_is_named_with_a_remedy(kind, write):
    content, what, remedy = NAMED[kind]
    file = write("pairs.jsonl", content)
    with pytest.raises(DpoError) as caught:
        open_rows(file)
    assert_told(caught.value, str(file), what, remedy)


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
