"""The cache: an entry is whole and unchanged, or it is made again; a file's hash is that of its content."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mlx_dpo.errors import DpoError
from mlx_dpo.storage import cache as module
from mlx_dpo.storage.cache import alone, content_hash, entry_folder, find, keep, kept

KEY = {"of": "a test", "version": 1}


def write(folder):
    (folder / "numbers").write_bytes(bytes(range(100)))
    (folder / "words").write_text("one two")
    return {"rows": 7}


def test_an_entry_is_made_once_and_found_with_its_facts():
    made = []

    def count(folder):
        made.append(folder)
        return write(folder)

    first, second = (kept("kind", KEY, count, "a test") for _ in range(2))
    assert first == second
    assert (first.facts, len(made)) == ({"rows": 7}, 1)
    assert first.sums["words"] == hashlib.sha256(b"one two").hexdigest()
    assert (first.folder / "numbers").read_bytes() == bytes(range(100))


@pytest.mark.parametrize("other", [{"of": "a test", "version": 2}, {"of": "a test"}, {**KEY, "more": None}])
def test_another_key_has_another_entry(other):
    kept("kind", KEY, write, "a test")
    assert find("kind", other, "a test") is None
    assert find("another kind", KEY, "a test") is None


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "a flipped bit": lambda f: flip(f / "numbers", 50),
    "a cut file": lambda f: os.truncate(f / "numbers", 99),
    "a longer file": lambda f: (f / "words").write_text("one two three"),
    "a missing file": lambda f: (f / "words").unlink(),
    "a missing list of files": lambda f: (f / "entry.json").unlink(),
    "half a list of files": lambda f: os.truncate(f / "entry.json", 60),
    "other facts": lambda f: (f / "entry.json").write_text(
        (f / "entry.json").read_text().replace('"rows": 7', '"rows": 8')
    ),
    "another key": lambda f: (f / "entry.json").write_text(
        (f / "entry.json").read_text().replace("a test", "a toast")
    ),
    "bytes for a list of files": lambda f: (f / "entry.json").write_bytes(b"\xff\xfe\xff"),
    "an array for a list of files": lambda f: (f / "entry.json").write_text("[]"),
    "a link to nowhere for a folder": lambda f: (f.rename(f.with_name("away")), f.symlink_to("nowhere")),
    "a file for a folder": lambda f: (f.rename(f.with_name("away")), f.write_text("")),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_entry_is_said_once_and_made_again(damage, capsys):
    folder = kept("kind", KEY, write, "a test").folder
    damage(folder)
    entry = kept("kind", KEY, write, "a test")
    assert (entry.folder / "numbers").read_bytes() == bytes(range(100))
    assert (entry.folder / "words").read_text() == "one two"
    assert entry.facts == {"rows": 7}
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith(f"a test: {folder} is damaged (")
    assert "made again" in said[0]


@pytest.mark.parametrize("error", [DpoError("no"), KeyboardInterrupt(), RuntimeError("no"), OSError("no")])
def test_what_fails_while_it_is_made_leaves_nothing(error, cache):
    def half(folder):
        write(folder)
        raise error

    with pytest.raises((DpoError, KeyboardInterrupt)):
        kept("kind", KEY, half, "a test")
    assert [p for p in cache.rglob("*") if p.is_file() and p.suffix != ".lock"] == []
    assert kept("kind", KEY, write, "a test").facts == {"rows": 7}


def test_what_a_killed_process_left_is_removed_and_the_entry_made(cache):
    script = """
import os, signal
from mlx_dpo.storage.cache import kept
def half(folder):
    (folder / "numbers").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
kept("kind", {"of": "a test", "version": 1}, half, "a test")
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9
    left = [p for p in cache.rglob("*") if p.name == "numbers"]
    assert len(left) == 1
    assert find("kind", KEY, "a test") is None
    assert kept("kind", KEY, write, "a test").facts == {"rows": 7}
    assert not left[0].exists()


def test_the_lock_of_a_process_that_was_killed_goes_when_its_entry_is_used_and_a_held_one_stays():
    """The process was killed when the entry was complete."""
    kept("numbers", {"a": 1}, write, "numbers")
    lock = entry_folder("numbers", {"a": 1}).with_name(f"{entry_folder('numbers', {'a': 1}).name}.lock")
    assert not lock.exists()
    lock.touch()
    assert find("numbers", {"a": 1}, "numbers")
    assert not lock.exists()
    with alone("numbers", {"a": 1}, "numbers"):
        assert find("numbers", {"a": 1}, "numbers")
        assert lock.exists()


def test_two_at_once_make_one_entry_and_the_second_waits(capsys):
    made, begun = [], threading.Event()

    def slow(folder):
        begun.set()
        time.sleep(0.3)
        made.append(folder)
        return write(folder)

    first = threading.Thread(target=kept, args=("kind", KEY, slow, "a test"))
    first.start()
    begun.wait()
    assert kept("kind", KEY, slow, "a test").facts == {"rows": 7}
    first.join()
    assert len(made) == 1
    assert "a test: waiting for another run" in capsys.readouterr().err


def test_entries_that_no_run_used_for_sixty_days_are_removed_when_one_is_made(monkeypatch):
    old, used = ({"number": n} for n in range(2))
    for key in (old, used):
        kept("kind", key, write, "a test")
        stamp = time.time() - 61 * 24 * 3600
        os.utime(entry_folder("kind", key) / "entry.json", (stamp, stamp))
    assert find("kind", used, "a test")
    kept("kind", KEY, write, "a test")
    assert [entry_folder("kind", key).exists() for key in (old, used, KEY)] == [False, True, True]


def test_what_a_killed_process_left_sixty_days_ago_is_removed(cache):
    left = cache / "kind" / ".0123.77"
    left.mkdir(parents=True)
    (left / "numbers").write_bytes(b"half")
    os.utime(left, (0, 0))
    kept("kind", KEY, write, "a test")
    assert not left.exists()


def test_a_cache_that_cannot_be_written_is_an_error_with_the_variables_name(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("MLX_DPO_CACHE", str(tmp_path / "file"))
    with pytest.raises(DpoError) as caught:
        kept("kind", KEY, write, "a test")
    assert caught.value.hint.startswith("set MLX_DPO_CACHE to ")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_lock_that_cannot_be_opened_is_an_error_with_the_variables_name():
    folder = entry_folder("kind", KEY)
    folder.with_name(f"{folder.name}.lock").mkdir(parents=True)
    with pytest.raises(DpoError, match="cannot be written: Is a directory") as caught:
        kept("kind", KEY, write, "a test")
    assert caught.value.where.endswith(".lock")
    assert "MLX_DPO_CACHE" in caught.value.hint


def test_a_disk_without_room_is_an_error_before_the_work():
    with pytest.raises(DpoError, match=r"needs 1000000\.00 GB, but the disk has") as caught:
        kept("kind", KEY, lambda folder: pytest.fail("began"), "a test", need_bytes=10**15)
    assert "MLX_DPO_CACHE" in caught.value.hint


@pytest.mark.parametrize("first", ["an entry", "a note"])
def test_a_new_cache_is_readable_by_its_owner_only(first, tmp_path, monkeypatch, large, reads):
    monkeypatch.setenv("MLX_DPO_CACHE", str(tmp_path / "new"))
    if first == "an entry":
        kept("kind", KEY, write, "a test")
    else:
        content_hash(large)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_the_cache_is_in_the_home_folder_where_nothing_else_is_said(monkeypatch):
    monkeypatch.delenv("MLX_DPO_CACHE")
    assert module.cache_folder() == Path.home() / ".cache" / "mlx_dpo"


def test_what_is_kept_by_hand_is_found():
    with alone("kind", KEY, "a test"):
        assert keep("kind", KEY, write) == find("kind", KEY, "a test")


# ---- hashes of files


@pytest.fixture
def large(tmp_path):
    """A file of two megabytes, old enough that its hash is noted."""
    path = tmp_path / "large"
    path.write_bytes(bytes(2 * 2**20))
    return path


@pytest.fixture
def reads(monkeypatch):
    """Files that were read whole; two seconds need not pass."""
    monkeypatch.setattr(module, "_TICK_SECONDS", -60.0)
    read, whole = [], module.sha256

    def note(path):
        read.append(path)
        return whole(path)

    monkeypatch.setattr(module, "sha256", note)
    return read


def test_a_hash_is_that_of_the_content(large):
    assert content_hash(large) == hashlib.sha256(large.read_bytes()).hexdigest()


def test_a_large_file_is_read_once(large, reads):
    assert content_hash(large) == content_hash(large) == content_hash(str(large))
    assert len(reads) == 1


def test_a_small_file_is_read_each_time(tmp_path, reads):
    (tmp_path / "small").write_text("small")
    assert content_hash(tmp_path / "small") == content_hash(tmp_path / "small")
    assert len(reads) == 2


def test_a_change_in_place_with_the_old_date_and_size_is_noticed(large, reads):
    before, times = content_hash(large), (large.stat().st_atime_ns, large.stat().st_mtime_ns)
    flip(large, 2**20)
    os.utime(large, ns=times)
    assert content_hash(large) != before


def test_another_file_of_the_same_date_and_size_in_its_place_is_noticed(large, reads, tmp_path):
    before, times = content_hash(large), (large.stat().st_atime_ns, large.stat().st_mtime_ns)
    other = tmp_path / "other"
    other.write_bytes(bytes(2**20) + b"1" * 2**20)
    os.utime(other, ns=times)
    other.rename(large)
    assert content_hash(large) != before


def test_a_file_written_a_moment_ago_is_not_noted(large, reads, monkeypatch):
    """A second change within one tick of the clock would leave all its times as they are."""
    monkeypatch.setattr(module, "_TICK_SECONDS", 2.0)
    content_hash(large), content_hash(large)
    assert len(reads) == 2


def test_a_damaged_note_only_costs_time(large, reads, cache):
    right = content_hash(large)
    (note,) = (cache / "hashes").iterdir()
    for content in ("", "[]", '"text"', json.dumps({"state": None})):
        note.write_text(content)
        assert content_hash(large) == right
    assert len(reads) == 5
