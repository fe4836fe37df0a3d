"""Files of rows in other formats: known by their content, and the command that is printed converts them."""

import csv
import gzip
import io
import json
import shlex
import subprocess
from pathlib import Path

import pytest

from mlx_dpo.data.foreign_files import check_is_jsonl
from mlx_dpo.data.row_index import index_rows
from mlx_dpo.data.sources import read_curated
from mlx_dpo.errors import DpoError

from ..support.mistakes import assert_told

ROWS = [{"prompt": f"How {i}?", "chosen": 'So,\n"well"', "rejected": "} {"} for i in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def table(delimiter):
    text = io.StringIO()
    writer = csv.DictWriter(text, ROWS[0], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return text.getvalue()


CONVERTED = {
    "a JSON list": (json.dumps(ROWS), "JSON list"),
    "a JSON list over several lines": (json.dumps(ROWS, indent=2), "JSON list"),
    "objects over several lines": (
        "\n".join(json.dumps(row, indent=2) for row in ROWS),
        "objects that span several lines",
    ),
    "a JSON list with a byte order mark": (
        ("\ufeff" + json.dumps(ROWS)).encode(),
        "JSON list",
    ),
    "objects over several lines with a byte order mark": (
        "\ufeff" + "\n \n".join(json.dumps(row, indent=2) for row in ROWS),
        "objects that span several lines",
    ),
    "an object that holds the rows": (
        json.dumps({"data": ROWS}, indent=2),
        "one JSON object with its rows in 'data'",
    ),
    "an object on one line that holds the rows": (
        json.dumps({"train": ROWS, "version": 1}),
        "one JSON object with its rows in 'train'",
    ),
    "CSV": (table(","), "is CSV"),
    "CSV with semicolons": (table(";"), "CSV with semicolons"),
    "CSV with a byte order mark": ("\ufeff" + table(","), "is CSV"),
    "TSV": (table("\t"), "TSV"),
    "gzip": (gzip.compress(LINES.encode()), "gzip"),
    "UTF-16": (LINES.encode("utf-16"), "UTF-16"),
}


@pytest.mark.parametrize("kind", CONVERTED)
def test_the_printed_command_turns_the_file_into_rows(kind, tmp_path):
    content, what = CONVERTED[kind]
    folder = tmp_path / "my OUTPUT files"
    folder.mkdir()
    file = folder / "pairs.data"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    for read in (index_rows, read_curated):
        with pytest.raises(DpoError) as caught:
            read(file)
        assert_told(caught.value, str(file), what, "turn it into JSONL: ")
    command = caught.value.hint.removeprefix("turn it into JSONL: ")
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    made = shlex.split(command)[-1]
    assert made == str(folder / "pairs-rows.jsonl")
    assert [row.id for row in index_rows(made).records()] == ["line-1", "line-2", "line-3"]
    assert [json.loads(line) for line in Path(made).read_text().splitlines()] == ROWS


@pytest.mark.parametrize("kind", ["gzip", "a JSON list", "UTF-16"])
def test_the_printed_command_takes_a_name_with_a_leading_dash_for_a_name(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content, _ = CONVERTED[kind]
    Path("-z.data").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DpoError) as caught:
        check_is_jsonl("-z.data")
    subprocess.run(caught.value.hint.removeprefix("turn it into JSONL: "), shell=True, check=True)
    assert [json.loads(line) for line in Path("-z-rows.jsonl").read_text().splitlines()] == ROWS


NO_FILES = {
    "https://hub.co/rows.jsonl": ("a web address", "download"),
    "org/pairs": ("no such file", "on the Hub"),
    "data/*.jsonl": ("a pattern for several files", "cat"),
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


def test_a_file_with_the_name_of_a_pattern_is_read(tmp_path):
    file = tmp_path / "rows [1].jsonl"
    file.write_text(LINES)
    assert len(index_rows(file)) == 3


NAMED = {
    "Parquet": (b"PAR1\x15\x04", "Parquet", "read_parquet"),
    "Arrow": (b"ARROW1\0\0", "Arrow", "read_feather"),
    "a spreadsheet": (b"PK\x03\x04\x14", "a spreadsheet", "CSV"),
    "zstd": (b"\x28\xb5\x2f\xfd", "zstd", "zstd -dc"),
    "a web page": (b"\n<!DOCTYPE html>\n<html>", "a web page", "download the file itself"),
    "a pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
        "Git LFS",
        "git lfs pull",
    ),
    "weights": (b"\x10\0\0\0\0\0\0\0{}", "is not text", "JSONL"),
}


@pytest.mark.parametrize("kind", NAMED)
def test_a_file_that_is_no_text_is_named_with_a_remedy(kind, tmp_path):
    content, what, remedy = NAMED[kind]
    file = tmp_path / "pairs.jsonl"
    file.write_bytes(content)
    with pytest.raises(DpoError) as caught:
        check_is_jsonl(file)
    assert_told(caught.value, str(file), what, remedy)


def test_a_table_with_an_index_is_known(tmp_path):
    file = tmp_path / "pairs.csv"
    file.write_text(",prompt,chosen-answer,rejected\n0,How?,So.,Thus.\n")
    with pytest.raises(DpoError, match="is CSV"):
        check_is_jsonl(file)


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
def test_what_may_be_jsonl_is_left_to_its_rows(kind, tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text(OWN[kind])
    check_is_jsonl(file)
