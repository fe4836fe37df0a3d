"""Data sets on the Hub, from a local server that stands in for it."""

import io
import json
import os
import subprocess
import sys

import pyarrow
import pyarrow.parquet
import pytest

from mlx_dpo.data.hub_files import _Wanted, is_hub_name, of_split
from mlx_dpo.errors import DpoError

from ..support.local_hub import commit, local_hub
from ..support.mistakes import assert_told, cases, pair
from .row_fixtures import PAIRS


def parquet(*rows):
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), sink)
    return sink.getvalue()


SHARDS = {
    f"data/train-{number:05}-of-00002.parquet": parquet(
        pair(prompt=f"How {number}?"), pair(prompt=str(number))
    )
    for number in (0, 1)
}
SETS = {
    "org/pairs": {"main": {**SHARDS, "data/test-00000-of-00001.parquet": parquet(pair()), "README.md": b"#"}},
    "org/hh": {
        "main": {"train.jsonl.gz": b""},
        "refs/convert/parquet": {"default/train/0000.parquet": parquet(*PAIRS["HH-RLHF transcripts"][0])},
    },
    "org/text": {"main": {"a.txt": b"a"}, "refs/convert/parquet": {}},
}
READ = """
import json, sys
from mlx_dpo.data.row_index import index_rows
from mlx_dpo.errors import DpoError
try:
    index = index_rows(sys.argv[1])
    print(json.dumps([(index.where(i), index.read(i).prompt[0]["content"]) for i in range(len(index))]))
except DpoError as error:
    print(json.dumps([error.where, error.what, error.hint]))
"""


@pytest.fixture
def read(tmp_path, cache):
    """Read a source in a process of its own; what was found, and what was said."""

    def run(source, address, offline=False):
        hub = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "01"[offline]}
        more = {
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        done = subprocess.run(
            [sys.executable, "-c", READ, source],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, **hub, **more},
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), done.stderr

    return run


def test_a_split_is_downloaded_once_its_revision_is_told_and_rows_are_named(read):
    with local_hub(SETS) as (address, asked):
        found, said = read("org/pairs", address)
        expected = [
            [f"org/pairs/data/train-{number:05}-of-00002.parquet:{row}", prompt]
            for number in (0, 1)
            for row, prompt in ((1, f"How {number}?"), (2, str(number)))
        ]
        assert found == expected
        assert f"org/pairs: train split, 2 Parquet files, revision {commit('main')}" in said.replace(
            "\n", " "
        )
        assert not any("test-" in one or "README" in one for one in asked)
        asked.clear()
        again, _ = read(f"hf://datasets/org/pairs@{commit('main')}:train", address)
        assert again == expected and not any(one.startswith("GET /datasets") for one in asked)
    found, said = read("org/pairs", address, offline=True)  # from the cache
    assert found == expected and commit("main") in said.replace("\n", "")


def test_a_set_without_parquet_files_is_read_from_those_that_the_hub_made(read):
    with local_hub(SETS) as (address, _):
        found, said = read("org/hh:train", address)
        assert len(found) == 3 and commit("refs/convert/parquet") in said.replace("\n", "")


MISSING = {
    "no such set": ("org/none", "no such data set on the Hub"),
    "no such split": ("org/pairs:valid", "has no split 'valid'"),
    "no Parquet files": ("org/text", "has no split 'train'"),
}


@cases(MISSING)
def test_what_the_hub_does_not_have_is_one_error(case, read):
    source, what = case
    with local_hub(SETS) as (address, _):
        found, _ = read(source, address)
    assert found[0] == source and what in found[1] and found[2]


def test_without_a_connection_and_without_a_copy_it_is_one_error(read):
    for offline in (True, False):
        found, _ = read("org/pairs", "http://127.0.0.1:9", offline=offline)
        assert found[0] == "org/pairs" and "no data set of this name in the cache" in found[1]


NAMES = {
    "org/name": True,
    "org/name:train": True,
    "org/name-v1.0": True,
    "hf://datasets/org/name/config:test": True,
    "org/rows.jsonl": False,
    "org/rows.parquet": False,
    "data/pairs/train": False,
    "./data": False,
    "rows": False,
    "/org/name": False,
    "~/rows": False,
}


@pytest.mark.parametrize("name", NAMES)
def test_only_what_could_be_a_data_set_is_looked_for_on_the_hub(name):
    assert is_hub_name(name) is NAMES[name]


LAYOUTS = {
    "one file": (["train.parquet", "test.parquet"], "", ["train.parquet"]),
    "shards": ([*SHARDS], "", [*SHARDS]),
    "with a hash": (
        ["data/train-00000-of-00001-a1b2.parquet"],
        "",
        ["data/train-00000-of-00001-a1b2.parquet"],
    ),
    "a configuration": (["a/train/0000.parquet", "b/train/0000.parquet"], "b", ["b/train/0000.parquet"]),
    "the default one": (
        ["default/train/0000.parquet", "b/train/0000.parquet"],
        "",
        ["default/train/0000.parquet"],
    ),
}


@cases(LAYOUTS)
def test_the_files_of_a_split_are_found(case):
    files, config, expected = case
    assert of_split(files, _Wanted("org/a", config, "", "train"), "org/a") == expected


def test_a_split_that_is_not_certain_or_not_complete_is_refused():
    wanted = _Wanted("org/a", "", "", "train")
    with pytest.raises(DpoError) as caught:
        of_split(["a/train/0000.parquet", "b/train/0000.parquet"], wanted, "org/a")
    assert_told(caught.value, "org/a", "several configurations", "hf://datasets/org/a/a:train")
    with pytest.raises(DpoError) as caught:
        of_split(list(SHARDS)[:1], wanted, "org/a")
    assert_told(caught.value, "org/a", "1 of 2 files of the split are there", "connect to the network")
