"""Folders and lists of files of rows: read as one, each row named by its own file."""

import gzip
import os

import pytest

from mlx_dpo.config import load_config
from mlx_dpo.data.row_files import open_rows
from mlx_dpo.data.row_index import index_rows, shared_prompts
from mlx_dpo.data.sources import read_pairs
from mlx_dpo.errors import DpoError

from ..support.mistakes import assert_told, lines, pair
from .file_contents import LINES, ROWS, arrow, table
from .row_fixtures import PAIRS


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
