"""Rows that a store refuses, stores that are damaged, and builds that are stopped."""

import os
import subprocess
import sys

import pytest

from mlx_dpo.data import own_format, row_reader
from mlx_dpo.data import row_index as index_module
from mlx_dpo.data import tokenize as tokenize_module
from mlx_dpo.data.pair_store import open_pairs
from mlx_dpo.data.row_index import index_rows
from mlx_dpo.data.sources import read_pairs
from mlx_dpo.data.tokenize import tokenize_pairs
from mlx_dpo.errors import DpoError
from mlx_dpo.storage.cache import entry_folder

from ..support.mistakes import assert_told, flip, lines, pair
from ..support.runs import tokens_of

MAX_LENGTH = 120


# ---- mistakes, in the words they have without a store


def same_error(file, tokenizer=None, max_length=MAX_LENGTH):
    """Reading into memory and opening a store refuse a file with the same words; the store keeps nothing."""
    errors = []
    for whole in (True, False):
        with pytest.raises(DpoError) as caught:
            if whole:
                tokenize_pairs(read_pairs(file), tokenizer, max_length)
            else:
                open_pairs(index_rows(file), tokenizer, max_length)
        errors.append(str(caught.value))
    assert errors[0] == errors[1]
    return errors[0]


BAD = {
    "no rows": "\n \n",
    "no object": lines(pair(), 5),
    "not UTF-8": lines(pair()).encode() + b'{"prompt": "\xff"}\n',
    "no chosen answer": lines(pair(), {"prompt": "How?", "rejected": "No."}),
    "an id twice": lines(pair(id="a"), pair(id="b"), pair(id="b"), pair(id="a")),
    "an id three times": lines(pair(), pair(id=4), pair(id="4"), pair(id="4")),
    "an id that is another row's line": "\n" + lines(pair(id="line-3"), pair()),
    "an id twice and then a bad row": lines(pair(id="a"), pair(id="a"), {}),
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD.keys())
def test_bad_rows_are_refused_as_without_a_store(content, tmp_path, cache):
    file = tmp_path / "pairs.jsonl"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    same_error(file)
    assert not [p for p in cache.rglob("*") if p.is_file() and p.suffix != ".lock"]


def test_rows_that_cannot_be_tokenised_are_refused_as_without_a_store(tmp_path, tokenizer):
    file = tmp_path / "pairs.jsonl"
    long = "How? " * 90
    file.write_text(lines(pair(), *[pair(prompt=long)] * 14))
    assert "lines 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 and 3 more" in same_error(file, tokenizer)
    file.write_text(lines(pair(rejected="So."), pair(chosen=long + "a", rejected=long + "b")))
    assert "no pair of 2 is left" in same_error(file, tokenizer)


def test_ids_whose_hashes_are_the_same_are_not_the_same_id(write_rows, pair_rows, monkeypatch):
    hash_of = index_module._hash
    monkeypatch.setattr(index_module, "_hash", lambda text, n: b"\0" * 8 if n == 8 else hash_of(text, n))
    index = index_rows(write_rows("pairs.jsonl", pair_rows[:6]))
    assert len(index) == 6
    doubled = [*pair_rows[:6], {**pair_rows[6], "id": pair_rows[4]["id"]}]
    with pytest.raises(DpoError, match=r"pairs.jsonl:7: the id '.*' is also used at .*pairs.jsonl:5"):
        index_rows(write_rows("pairs.jsonl", doubled))


def test_what_can_be_read_only_once_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DpoError, match="pipe: is not a plain file"):
        index_rows(tmp_path / "pipe")


@pytest.mark.parametrize("stage", ["index", "store"])
def test_a_file_that_changes_while_it_is_read_is_refused(stage, mixed_file, tokenizer, cache, monkeypatch):
    index = index_rows(mixed_file) if stage == "store" else None
    parse = own_format.to_preference

    def grow(row, where):
        with open(mixed_file, "a") as more:
            more.write(lines(pair(id=where)))
        return parse(row, where)

    monkeypatch.setattr(own_format, "to_preference", grow)
    monkeypatch.setattr(row_reader, "read_lines", bounded(row_reader.read_lines))
    with pytest.raises(DpoError) as caught:
        open_pairs(index or index_rows(mixed_file), tokenizer, MAX_LENGTH)
    assert_told(caught.value, str(mixed_file), "changed while it was read", "command again")
    assert not list(cache.glob("pairs/*/entry.json"))


def bounded(read):
    """A file that grows by a row for each row read has no end: read fifty."""
    return lambda path, longest: (row for _, row in zip(range(50), read(path, longest), strict=False))


# ---- damage and interruption


@pytest.mark.parametrize("name", ["tokens", "sizes", "rows"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "missing"])
def test_a_damaged_store_is_made_again(name, damage, mixed_file, tokenizer, tokenised, capsys):
    pairs = open_pairs(index_rows(mixed_file), tokenizer, MAX_LENGTH)
    expected, folder = tokens_of(pairs), entry_folder("pairs", pairs.key)
    if damage == "flipped":
        flip(folder / name, 40)
    elif damage == "cut":
        os.truncate(folder / name, (folder / name).stat().st_size - 4)
    else:
        (folder / name).unlink()
    capsys.readouterr()
    for _ in range(2):
        assert tokens_of(open_pairs(index_rows(mixed_file), tokenizer, MAX_LENGTH)) == expected
    assert len(tokenised) == 60
    assert capsys.readouterr().err.count("is damaged") == 1


@pytest.mark.parametrize("name", ["lines", "numbers", "places", "prompts"])
def test_a_damaged_index_is_made_again(name, mixed_file, cache, capsys):
    rows = list(index_rows(mixed_file).records())
    (folder,) = [p.parent for p in cache.glob("rows/*/entry.json")]
    flip(folder / name, 9)
    index = index_rows(mixed_file)
    assert [index.read(i) for i in range(len(index))] == rows
    assert capsys.readouterr().err.count("is damaged") == 1


def test_a_store_cut_off_while_it_is_in_use_is_an_error(mixed_file, tokenizer):
    pairs = open_pairs(index_rows(mixed_file), tokenizer, MAX_LENGTH)
    os.truncate(entry_folder("pairs", pairs.key) / "tokens", 100)
    with pytest.raises(DpoError, match="tokens: became shorter"):
        pairs[28]


def test_an_interrupted_build_leaves_nothing_and_the_next_is_whole(mixed_file, tokenizer, cache, monkeypatch):
    pair_of, count = tokenize_module.RowTokenizer.pair, iter(range(100))

    def stop(self, row):
        if next(count) == 12:
            raise KeyboardInterrupt
        return pair_of(self, row)

    index = index_rows(mixed_file)
    with monkeypatch.context() as patch:
        patch.setattr(tokenize_module.RowTokenizer, "pair", stop)
        with pytest.raises(KeyboardInterrupt):
            open_pairs(index, tokenizer, MAX_LENGTH)
    assert [p.name for p in (cache / "pairs").iterdir() if p.suffix != ".lock"] == []
    expected, _ = tokenize_pairs(read_pairs(mixed_file), tokenizer, MAX_LENGTH)
    assert tokens_of(open_pairs(index, tokenizer, MAX_LENGTH)) == tokens_of(expected)


KILLED = """
import os, signal, sys
from pathlib import Path
from mlx_dpo.data import tokenize
from mlx_dpo.data.row_index import index_rows
from mlx_dpo.data.pair_store import open_pairs
from mlx_dpo.models.load import load_tokenizer
pair_of, left = tokenize.RowTokenizer.pair, [12]
def kill(self, row):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return pair_of(self, row)
tokenize.RowTokenizer.pair = kill
open_pairs(index_rows(sys.argv[1]), load_tokenizer(Path(sys.argv[2])), 120)
"""


def test_after_a_kill_the_next_start_is_whole_and_clears_up(mixed_file, tokenizer, models, cache):
    command = [sys.executable, "-c", KILLED, str(mixed_file), str(models("granite"))]
    assert subprocess.run(command, capture_output=True).returncode == -9
    (left,) = [p for p in (cache / "pairs").iterdir() if p.is_dir()]
    assert (left / "tokens").exists()
    expected, _ = tokenize_pairs(read_pairs(mixed_file), tokenizer, MAX_LENGTH)
    assert tokens_of(open_pairs(index_rows(mixed_file), tokenizer, MAX_LENGTH)) == tokens_of(expected)
    assert not left.exists()
