"""Files that are broken, or are no files of rows: refused with the place and a remedy."""

import bz2
import gzip
import io
import lzma
import random
import shlex
import subprocess
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from mlx_dpo.data import columnar_rows
from mlx_dpo.data.row_files import open_rows
from mlx_dpo.data.row_index import index_rows
from mlx_dpo.data.sources import read_curated
from mlx_dpo.errors import DpoError

from ..support.mistakes import assert_told, cases, pair
from .file_contents import LINES, OBJECTS, PRETTY, arrow, parquet, table

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
