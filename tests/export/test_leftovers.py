"""What a killed command left beside its output goes with the next one; what somebody still writes stays."""

import os
import socket
import subprocess
import sys
import time
import zlib

import pytest

from mlx_dpo.storage.files import check_writable, remove_left, replace_folder, write_text

from ..storage.test_files import tree

HERE = f"{zlib.crc32(socket.gethostname().encode()):08x}"
ELSEWHERE = "00000000" if HERE != "00000000" else "00000001"


@pytest.fixture(scope="module")
def dead():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture(scope="module")
def alive():
    """The number of a process that runs."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process.pid
    process.communicate()


def aged(path, seconds):
    os.utime(path, (time.time() - seconds,) * 2)
    return path


def folder_at(path, file="model.safetensors"):
    path.mkdir()
    (path / file).write_text("half")
    return path


def test_a_writer_removes_what_dead_processes_left_of_the_same_file_or_folder(tmp_path, dead):
    for name in (f".a.{dead}.json", f".a.{dead}-{HERE}.json"):
        (tmp_path / name).write_text("half")
    folder_at(tmp_path / f".fused.{dead}")
    folder_at(tmp_path / f".fused.{dead}-{HERE}")
    write_text(tmp_path / "a.json", "{}")
    replace_folder(tmp_path / "fused", lambda folder: (folder / "config.json").write_text("{}"))
    assert tree(tmp_path) == {"a.json": b"{}", "fused": None, "fused/config.json": b"{}"}


def test_what_is_checked_before_the_slow_part_has_room_that_leftovers_took(tmp_path, dead):
    folder_at(tmp_path / f".granite-4.0.{dead}-{HERE}")
    check_writable(tmp_path / "granite-4.0")
    assert tree(tmp_path) == {}


def test_files_of_other_names_stay(tmp_path, dead):
    names = [
        f".b.{dead}.json",
        ".a.json",
        ".a.old.json",
        f".a.{dead}.txt",
        f"a.{dead}.json",
        f".a.{dead}x.json",
    ]
    for name in names:
        (tmp_path / name).write_text("mine")
    write_text(tmp_path / "a.json", "{}")
    assert sorted(os.listdir(tmp_path)) == sorted([*names, "a.json"])


@pytest.mark.parametrize("machine", ["", f"-{HERE}"])
def test_what_a_running_process_writes_stays(tmp_path, alive, machine):
    folder_at(tmp_path / f".fused.{alive}{machine}")
    remove_left(tmp_path / "fused")
    assert len(os.listdir(tmp_path)) == 1


def test_a_number_that_another_process_has_by_now_protects_nothing(tmp_path, alive):
    left = folder_at(tmp_path / f".fused.{alive}-{HERE}")
    for path in (left / "model.safetensors", left):
        aged(path, 7200)
    remove_left(tmp_path / "fused")
    assert tree(tmp_path) == {}


def test_a_process_that_was_killed_and_not_yet_reaped_protects_nothing(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    process.stdout.read()
    time.sleep(0.2)
    folder_at(tmp_path / f".fused.{process.pid}-{HERE}")
    remove_left(tmp_path / "fused")
    process.wait()
    assert tree(tmp_path) == {}


def test_what_another_machine_writes_on_a_shared_disk_stays_for_a_day(tmp_path, dead):
    left = tmp_path / f".a.{dead}-{ELSEWHERE}.json"
    left.write_text("half")
    remove_left(tmp_path / "a.json")
    assert left.exists()
    aged(left, 25 * 3600)
    remove_left(tmp_path / "a.json")
    assert not left.exists()


def test_an_earlier_process_of_the_same_number_is_none_that_runs(tmp_path):
    """In a container, number and name of the machine are often the same again."""
    folder_at(tmp_path / f".fused.{os.getpid()}-{HERE}")
    replace_folder(tmp_path / "fused", lambda folder: (folder / "config.json").write_text("{}"))
    assert tree(tmp_path) == {"fused": None, "fused/config.json": b"{}"}


def test_what_this_process_writes_at_the_moment_stays(tmp_path):
    def write(folder):
        remove_left(tmp_path / "fused")
        check_writable(tmp_path / "fused")
        (folder / "config.json").write_text("{}")

    replace_folder(tmp_path / "fused", write)
    assert tree(tmp_path) == {"fused": None, "fused/config.json": b"{}"}


def test_a_folder_set_aside_for_one_that_never_came_is_put_back(tmp_path, dead):
    folder_at(tmp_path / f".a.{dead}-{HERE}.before")
    folder_at(tmp_path / f".a.{dead}-{HERE}", "other")
    remove_left(tmp_path / "a")
    assert tree(tmp_path) == {"a": None, "a/model.safetensors": b"half"}


def test_a_killed_check_of_a_folder_leaves_nothing_for_long(tmp_path, dead):
    (tmp_path / f".writable.{dead}-{HERE}").mkdir()
    check_writable(tmp_path / "fused")
    assert tree(tmp_path) == {}
