"""A log by id: whole lines only, gone on with after a kill, one writer, no other settings."""

import json
import os
import signal
import subprocess
import sys

import pytest

from mlx_dpo.errors import DpoError
from mlx_dpo.storage import append_log
from mlx_dpo.storage.append_log import AppendLog

from ..support.mistakes import assert_told

SETTINGS = {"model": "a", "fingerprint": "f1", "ask": {"seed": 0, "order": "both"}}
COMPARED = {"fingerprint": "model", "ask.seed": None}


def log_in(folder, settings=SETTINGS):
    return AppendLog(
        folder / "verdicts.jsonl", settings, COMPARED, "judge", "verdicts", "judge.output", ("pairs.jsonl",)
    )


def read(row, where):
    if not isinstance(row.get("key"), str) or not isinstance(row.get("winner"), int):
        raise DpoError("is not a verdict", where=where)
    return row["key"], row["winner"]


def add(folder, **verdicts):
    with log_in(folder).open(read) as log:
        for key, winner in verdicts.items():
            log.append(key, {"winner": winner}, winner)
        return dict(log.results)


def test_results_are_there_at_once_and_the_next_time_and_the_last_of_a_key_counts(tmp_path):
    assert add(tmp_path, a=1, b=2) == {"a": 1, "b": 2}
    assert add(tmp_path, b=3, c=4) == {"a": 1, "b": 3, "c": 4}
    rows = [json.loads(line) for line in (tmp_path / "verdicts.jsonl").read_text().splitlines()]
    assert rows == [{"key": k, "winner": w} for k, w in (("a", 1), ("b", 2), ("b", 3), ("c", 4))]
    assert json.loads((tmp_path / "verdicts.json").read_text()) == SETTINGS
    assert {p.name for p in tmp_path.iterdir()} == {"verdicts.jsonl", "verdicts.json"}


@pytest.mark.parametrize("cut", [1, 5, 19])
def test_a_torn_last_line_is_cut_off_and_all_before_it_stays(tmp_path, cut):
    add(tmp_path, a=1, b=2)
    path = tmp_path / "verdicts.jsonl"
    whole = path.read_bytes()
    os.truncate(path, len(whole) - cut)
    assert add(tmp_path) == {"a": 1}
    assert path.read_bytes() == whole[: whole.index(b"\n") + 1]
    assert add(tmp_path, b=2) == {"a": 1, "b": 2}
    assert path.read_bytes() == whole


@pytest.mark.parametrize("torn", [0, 7, 8, 9, 100])
def test_a_torn_line_that_is_longer_than_a_block_is_cut_off(tmp_path, monkeypatch, torn):
    monkeypatch.setattr(append_log, "_BLOCK", 8)
    add(tmp_path, a=1)
    path = tmp_path / "verdicts.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b"x" * torn)
    assert add(tmp_path) == {"a": 1} and path.read_bytes() == whole
    path.write_bytes(b"x" * torn)
    assert add(tmp_path) == {} and path.read_bytes() == b""


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.storage.test_append_log import log_in, read
with log_in(Path(sys.argv[1])).open(read) as log:
    log.append("a", {"winner": 1}, 1)
    print("added", flush=True)
    if sys.argv[2] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdin.read()
"""


def test_what_was_added_before_a_kill_is_there_after_it(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path, "kill"], capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert add(tmp_path, b=2) == {"a": 1, "b": 2}


def test_a_second_writer_is_refused_and_writes_nothing(tmp_path):
    command = [sys.executable, "-c", KILLED, tmp_path, "stay"]
    first = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert first.stdout.readline() == b"added\n"
    with pytest.raises(DpoError) as caught:
        add(tmp_path, b=2)
    assert_told(caught.value, str(tmp_path), "another judge", "stop it")
    first.communicate()
    assert add(tmp_path) == {"a": 1}


@pytest.mark.parametrize(
    ("change", "different"),
    [
        ({"fingerprint": "f2"}, "model"),
        ({"ask": {"seed": 1}}, "ask.seed (was 0)"),
        ({"ask": None, "fingerprint": None}, "model, ask.seed (was 0)"),
    ],
)
def test_a_log_of_other_settings_is_refused_before_and_at_its_opening(tmp_path, change, different):
    add(tmp_path, a=1)
    log = log_in(tmp_path, SETTINGS | change)
    with pytest.raises(DpoError) as caught:
        log.check()
    assert_told(
        caught.value, str(tmp_path), f"verdicts made with another {different}", "another judge.output"
    )
    assert "delete this folder" in caught.value.hint
    with pytest.raises(DpoError, match="made with another"), log.open(read):
        pass
    assert add(tmp_path) == {"a": 1}


def test_what_is_not_compared_may_change(tmp_path):
    add(tmp_path, a=1)
    changed = SETTINGS | {"model": "b", "ask": {"seed": 0, "order": "one"}}
    with log_in(tmp_path, changed).open(read) as log:
        assert log.results == {"a": 1}


@pytest.mark.parametrize("name", ["verdicts.jsonl", "pairs.jsonl"])
def test_files_that_the_writer_did_not_make_are_not_touched(tmp_path, name):
    (tmp_path / name).write_text("mine")
    for use in (log_in(tmp_path).check, lambda: add(tmp_path, a=1)):
        with pytest.raises(DpoError) as caught:
            use()
        assert_told(caught.value, str(tmp_path), f"{name}, but judge did not write it", "--output")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["mine"]


def test_a_row_of_another_kind_is_named_and_stays(tmp_path):
    add(tmp_path, a=1)
    path = tmp_path / "verdicts.jsonl"
    with path.open("a") as file:
        file.write('{"key": 7}\n')
    before = path.read_bytes()
    with pytest.raises(DpoError, match=f"{path}:2: is not a verdict"):
        add(tmp_path)
    assert path.read_bytes() == before


def test_a_disk_that_refuses_is_told_with_the_log_and_what_was_there_stays(tmp_path, monkeypatch):
    add(tmp_path, a=1)

    class Full:
        def write(self, line):
            raise OSError(28, "No space left on device")

    with (
        pytest.raises(DpoError, match=r"verdicts\.jsonl: cannot be written: No space left on device"),
        log_in(tmp_path).open(read) as log,
    ):
        log._file = Full()
        log.append("b", {"winner": 2}, 2)
    assert add(tmp_path) == {"a": 1}


def test_a_folder_that_cannot_be_written_is_told_with_the_log(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DpoError, match=r"verdicts\.json.*: cannot be"), log_in(tmp_path / "file").open(read):
        pass
