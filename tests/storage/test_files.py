"""A file is the old one or the whole new one, and nothing is left lying beside it."""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import pytest

from mlx_dpo.errors import DpoError
from mlx_dpo.storage.files import (
    bytes_to_copy,
    check_writable,
    link_or_copy,
    make_folder,
    replace_folder,
    with_replacement,
    write_text,
)
from mlx_dpo.storage.jsonl import read_jsonl, write_jsonl

from ..support.mistakes import assert_told


class Stop(Exception):
    """Something that no writer raises on purpose."""


FAILURES = [
    OSError(28, "No space left on device"),
    RuntimeError("cannot save"),
    Stop("bug"),
    KeyboardInterrupt(),
]
"""A full disk, a full disk where MLX writes, a mistake of ours, Ctrl-C."""


@pytest.fixture(params=FAILURES, ids=lambda f: type(f).__name__)
def failure(request):
    return request.param


def tree(folder):
    """Every path below `folder` with its bytes, hidden ones too."""
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in Path(folder).rglob("*")
    }


def raises_for(failure):
    """A system's error becomes one that a user can mend; the others pass as they are."""
    return DpoError if isinstance(failure, (OSError, RuntimeError)) else type(failure)


def test_text_is_written_as_it_is_given(tmp_path):
    path = tmp_path / "a" / "b" / "notes.yaml"
    write_text(path, "Zürich: 東京\r\n\n")
    assert path.read_bytes() == "Zürich: 東京\r\n\n".encode()
    write_text(path, "")
    assert tree(tmp_path) == {"a": None, "a/b": None, "a/b/notes.yaml": b""}


def test_a_writer_that_fails_half_way_leaves_the_old_file_and_nothing_else(tmp_path, failure):
    path = tmp_path / "adapters.safetensors"
    path.write_text("old")

    def write(beside):
        beside.write_text("half of the n")
        assert path.read_text() == "old"
        raise failure

    with pytest.raises(raises_for(failure)):
        with_replacement(path, write)
    assert tree(tmp_path) == {"adapters.safetensors": b"old"}


def test_a_writer_that_fails_leaves_no_file_where_there_was_none(tmp_path, failure):
    def write(beside):
        beside.write_text("half")
        raise failure

    with pytest.raises(raises_for(failure)):
        with_replacement(tmp_path / "new.json", write)
    assert tree(tmp_path) == {}


def test_a_writer_that_makes_nothing_is_an_error_and_the_old_file_stays(tmp_path):
    path = tmp_path / "old.txt"
    path.write_text("old")
    with pytest.raises(DpoError, match="cannot be written: No such file or directory"):
        with_replacement(path, lambda beside: None)
    assert tree(tmp_path) == {"old.txt": b"old"}


def test_the_file_beside_has_the_same_suffix_so_that_mlx_writes_the_right_format(tmp_path):
    path = tmp_path / "weights.safetensors"
    with_replacement(path, lambda beside: mx.save_safetensors(str(beside), {"a": mx.arange(3)}))
    assert os.listdir(tmp_path) == ["weights.safetensors"]
    assert mx.load(str(path))["a"].tolist() == [0, 1, 2]


def test_a_full_disk_is_told_with_the_files_name_and_the_remedy(tmp_path):
    def write(beside):
        raise OSError(28, "No space left on device")

    with pytest.raises(DpoError) as caught:
        with_replacement(tmp_path / "a.json", write)
    what, remedy = "cannot be written: No space left on device", "free some space"
    assert_told(caught.value, str(tmp_path / "a.json"), what, remedy)
    assert "unchanged" in caught.value.hint


def test_a_full_disk_is_told_also_where_a_librarys_own_code_finds_it(tmp_path):
    """The Rust code of tokenizers raises a bare Exception."""

    def save(folder):
        raise Exception("No space left on device (os error 28)")

    with pytest.raises(DpoError, match="cannot be written: No space left on device") as caught:
        replace_folder(tmp_path / "fused", save)
    assert "free some space" in caught.value.hint
    assert tree(tmp_path) == {}


def test_rows_that_cannot_be_written_leave_the_old_rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"a": "é"}, {"a": [1, None]}])
    assert [row for _, row in read_jsonl(path)] == [{"a": "é"}, {"a": [1, None]}]
    with pytest.raises(TypeError):
        write_jsonl(path, [{"a": 1}, {"a": object()}])
    assert [row for _, row in read_jsonl(path)] == [{"a": "é"}, {"a": [1, None]}]
    assert os.listdir(tmp_path) == ["rows.jsonl"]


def test_a_folder_appears_whole(tmp_path):
    def write(folder):
        assert not (tmp_path / "runs" / "fused").exists()
        (folder / "config.json").write_text("{}")
        (folder / "inner").mkdir()
        (folder / "inner" / "a").write_text("a")

    replace_folder(tmp_path / "runs" / "fused", write)
    assert tree(tmp_path / "runs") == {
        "fused": None,
        "fused/config.json": b"{}",
        "fused/inner": None,
        "fused/inner/a": b"a",
    }


def test_a_writer_that_fails_half_way_leaves_no_folder(tmp_path, failure):
    def write(folder):
        (folder / "config.json").write_text("{}")
        (folder / "inner").mkdir()
        raise failure

    with pytest.raises(raises_for(failure)):
        replace_folder(tmp_path / "fused", write)
    assert tree(tmp_path) == {}


def test_a_folder_that_is_in_the_way_stays_as_it_is(tmp_path):
    (tmp_path / "fused").mkdir()
    (tmp_path / "fused" / "mine.txt").write_text("mine")
    with pytest.raises(DpoError, match="exists already") as caught:
        replace_folder(tmp_path / "fused", lambda folder: (folder / "config.json").write_text("{}"))
    assert "another output folder" in caught.value.hint
    assert tree(tmp_path) == {"fused": None, "fused/mine.txt": b"mine"}


def test_a_file_in_the_way_of_a_folder_is_told_and_stays(tmp_path):
    (tmp_path / "runs").write_text("a file")
    for write in (
        lambda: make_folder(tmp_path / "runs" / "a"),
        lambda: write_text(tmp_path / "runs" / "b", ""),
    ):
        with pytest.raises(DpoError, match=r"cannot be written: Not a directory|exists already"):
            write()
    assert tree(tmp_path) == {"runs": b"a file"}


def test_checking_a_folder_makes_nothing(tmp_path):
    check_writable(tmp_path, need_bytes=1000)
    check_writable(tmp_path / "not" / "there" / "yet", need_bytes=1000)
    assert tree(tmp_path) == {}


def test_a_relative_folder_is_checked_from_where_the_user_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_writable(Path("runs/a"))
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(DpoError) as caught:
        check_writable(Path("runs/a"))
    assert (caught.value.what, caught.value.where) == (f"{tmp_path / 'runs'} is a file", "runs/a")


def test_a_file_cannot_be_an_output_folder(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(DpoError) as caught:
        check_writable(tmp_path / "run")
    assert_told(caught.value, str(tmp_path / "run"), "is a file", "another output folder")


def test_too_little_room_is_told_before_anything_is_written(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(DpoError, match=r": needs [0-9.]+ GB, but the disk has [0-9.]+ GB left") as caught:
        check_writable(tmp_path / "run", need_bytes=free + 10**12)
    assert float(caught.value.what.split()[1]) == pytest.approx((free + 10**12) / 1e9, rel=1e-3)
    assert caught.value.where == str(tmp_path / "run")


@pytest.mark.parametrize(("need", "told"), [(99 * 10**6, "0.10"), (10**6, "0.0010")])
def test_a_small_amount_of_room_is_not_told_as_none(tmp_path, monkeypatch, need, told):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=12_345))
    with pytest.raises(DpoError) as caught:
        check_writable(tmp_path / "run", need_bytes=need)
    assert caught.value.what == f"needs {told} GB, but the disk has 0.00 GB left"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="the folder nobody may write in is Linux's")
def test_a_folder_that_cannot_be_written_in_is_told_at_once():
    with pytest.raises(DpoError) as caught:
        check_writable(Path("/proc/run"))
    assert_told(caught.value, "/proc/run", "cannot write in /proc: ", "another output folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_told_at_once(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(DpoError, match=f"cannot write in {tmp_path}: Permission denied"):
        check_writable(tmp_path / "run")


def test_a_file_gets_another_name_on_its_disk_and_is_copied_to_another(tmp_path, monkeypatch):
    own = tmp_path / "model.safetensors"
    own.write_text("weights")
    assert bytes_to_copy([own], tmp_path / "a" / "b") == 0
    link_or_copy(own, tmp_path / "linked")
    assert (tmp_path / "linked").stat().st_ino == own.stat().st_ino

    def across(source, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", across)
    link_or_copy(own, tmp_path / "copied")
    assert (tmp_path / "copied").read_text() == "weights"
    assert (tmp_path / "copied").stat().st_ino != own.stat().st_ino


def test_on_a_disk_without_links_every_file_needs_room(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("12345")

    def refused(source, target):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refused)
    assert bytes_to_copy([tmp_path / "file"], tmp_path / "a" / "b") == 5
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_files_of_another_disk_need_room(tmp_path):
    other = Path("/dev/shm")
    if not other.is_dir() or os.stat(other).st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("there is one disk only")
    (tmp_path / "file").write_text("12345")
    assert bytes_to_copy([tmp_path / "file"], other / "gone" / "folder") == 5
