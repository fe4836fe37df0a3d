"""Files and paths that cannot be read: each is refused in words, by every command, and nothing is written."""

import errno
import json
import os
import shutil
import time

import pytest

from mlx_dpo.cli import main
from mlx_dpo.errors import DpoError
from mlx_dpo.storage.files import with_replacement
from mlx_dpo.storage.jsonl import ROW_BYTES, read_jsonl
from mlx_dpo.storage.reading import files_in, is_there, path_text, read_object, unreadable

from ..conftest import files_in as tree
from ..support.mistakes import cases, curated, lines, pair

PATHS = {
    "a NUL": "a\0b",
    "half of a character": "a\ud83d",
    "more than a name can have": "x" * 400,
    "a link to itself": "loop",
}
PLACES = {
    "train's rows": "train --model m --output out --set data.valid=null --set data.train=",
    "train's held-out rows": "train --model m --output out --set data.train=rows.jsonl --set data.valid=",
    "train's output": "train --model m --set data.train=rows.jsonl --set data.valid=null --set run.output=",
    "train's adapter": "train --model m --output out --set data.train=rows.jsonl --set data.valid=null "
    "--set model.adapter=",
    "a model": "plan --set data.train=rows.jsonl --set data.valid=null --set model.path=",
    "gen-pairs' source": "gen-pairs --model m --output out --set pairs.source=",
    "gen-pairs' output": "gen-pairs --model m --source curated.jsonl --set pairs.output=",
    "inspect's rows": "inspect --no-model --model m --data=",
    "eval's run": "eval --run=",
    "eval's rows": "eval --run run --data=",
    "report's run": "report --run=",
    "fuse's run": "fuse --output out --run=",
    "fuse's output": "fuse --run run --output=",
}


@pytest.fixture
def refusal(tmp_path, monkeypatch, capsys):
    """Run a command that a user's mistake ends: its one error and the remedy; no file is changed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        before = tree(tmp_path)
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        out, err = capsys.readouterr()
        assert (stop.value.code, out) == (1, "")
        error, remedy = err[err.index("Error: ") :].splitlines()
        assert remedy.startswith("  ")
        assert tree(tmp_path) == before
        return error.removeprefix("Error: "), remedy.strip()

    return run


@pytest.fixture
def surroundings(tmp_path, models, trained):
    """A model `m`, a run `run` and rows, in the test's folder."""
    os.symlink(models("llama"), tmp_path / "m")
    shutil.copytree(trained("llama"), tmp_path / "run")
    (tmp_path / "rows.jsonl").write_text(lines(pair()))
    (tmp_path / "curated.jsonl").write_text(lines(curated()))
    os.symlink("loop", tmp_path / "loop")


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
def test_a_path_that_no_file_can_have_is_refused_in_words(path, place, surroundings, refusal):
    *words, last = place.split()
    error, _ = refusal(*words, last + path)
    assert error.isprintable()
    assert len(error) < 400


def test_a_home_folder_of_nobody_is_refused(surroundings, refusal):
    rows = ("--set", "data.train=rows.jsonl", "--set", "data.valid=null")
    error, remedy = refusal("plan", "--model", "~nosuchuser/m", *rows)
    assert error.startswith("--model: model.path names a user that this machine does not have")
    assert remedy


READERS = {
    "m/config.json": "plan",
    "m/generation_config.json": "plan",
    "m/tokenizer.json": "inspect",
    "m/tokenizer_config.json": "inspect",
    "m/special_tokens_map.json": "inspect",
    "m/chat_template.jinja": "inspect",
    "m/model.safetensors": "plan",
    "m/model.safetensors.index.json": "plan",
    "run/adapter_config.json": "eval",
    "run/adapters.safetensors": "fuse",
    "run/metrics.jsonl": "report",
    "run/events.jsonl": "report",
    "run/samples.jsonl": "report",
    "run/inspection.json": "report",
    "rows.jsonl": "inspect",
    "curated.jsonl": "gen-pairs",
    "pairs/completions.json": "gen-pairs",
}
COMMANDS = {
    "plan": "plan --model m --set data.train=rows.jsonl --set data.valid=null",
    "inspect": "inspect --no-model --model m --data rows.jsonl",
    "eval": "eval --run run --samples 0",
    "fuse": "fuse --run run --output fused",
    "report": "report --run run",
    "gen-pairs": "gen-pairs --model m --source curated.jsonl --output pairs",
}
OTHERS = {
    "a pipe": (os.mkfifo, "is not a plain file"),
    "a device without end": (lambda path: os.symlink("/dev/zero", path), "is not a plain file"),
    "a folder": (os.mkdir, "is a folder"),
    "a link to itself": (
        lambda p: os.symlink(p.name, p),
        "cannot be read: Too many levels of symbolic links",
    ),
    "a disk that fails": (
        lambda path: os.symlink("/proc/self/mem", path),
        "cannot be read: Input/output error",
    ),
}


@cases(OTHERS)
@pytest.mark.parametrize("file", READERS)
def test_what_is_no_plain_file_is_refused_by_every_reader(
    file, case, surroundings, refusal, tmp_path, models
):
    make, what = case
    if what.endswith("Input/output error") and not os.path.exists("/proc/self/mem"):
        pytest.skip("a file whose reading fails is Linux's")
    (tmp_path / "m").unlink()
    shutil.copytree(models("llama"), tmp_path / "m")
    (tmp_path / "pairs").mkdir()
    path = tmp_path / file
    path.unlink(missing_ok=True)
    make(path)
    error, _ = refusal(*COMMANDS[READERS[file]].split())
    named = file in error and "cannot be followed: Too many levels of symbolic links" in error
    told = error.startswith(f"{file}: {what}")
    assert named if what.endswith("symbolic links") and "/" not in file else told


# ---- one line, one row


def test_a_line_longer_than_any_row_is_refused_by_its_number_without_being_parsed(tmp_path, refusal):
    (tmp_path / "rows.jsonl").write_text(lines(pair(), pair(chosen="so " * ROW_BYTES)))
    (tmp_path / "curated.jsonl").write_text(lines(curated(answer="so " * ROW_BYTES)))
    start = time.monotonic()
    for place, command in (
        ("rows.jsonl:2", "train --model ./no-model --output out --set data.train=rows.jsonl"),
        ("curated.jsonl:1", "gen-pairs --model ./no-model --output out --source curated.jsonl"),
    ):
        error, remedy = refusal(*command.split())
        assert error.startswith(f"{place}: ") and "2 MB" in error
        assert "data.max_length" in remedy
    assert time.monotonic() - start < 5


def test_a_file_without_line_ends_is_not_read_to_its_end(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.touch()
    os.truncate(path, 2**40)  # a terabyte of nothing, which takes no room
    with pytest.raises(DpoError, match=r"rows.jsonl:1: the row is longer than 2 MB"):
        list(read_jsonl(path))


def test_the_longest_row_is_read(tmp_path):
    path = tmp_path / "rows.jsonl"
    around = len(lines({"a": ""}))
    path.write_text(lines({"a": "x" * (ROW_BYTES - around)}, {"a": "y"}))
    assert [len(row["a"]) for _, row in read_jsonl(path)] == [ROW_BYTES - around, 1]


# ---- remedies


REMEDIES = {
    errno.EACCES: "chmod u+rX",
    errno.EIO: "the disk or the network failed",
    errno.ELOOP: "the link leads back to itself",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EMFILE: "ulimit -n",
    errno.ENOENT: "put it back",
    errno.EISDIR: "put it back",
    errno.ESTALE: "command again",
}


@pytest.mark.parametrize("number", REMEDIES, ids=errno.errorcode.get)
def test_each_reason_of_the_system_has_its_own_remedy(number, tmp_path):
    path = tmp_path / "a b"
    path.touch()
    error = unreadable(path, OSError(number, os.strerror(number)), "put it back")
    assert REMEDIES[number] in error.hint
    assert error.where == str(path)


def test_the_part_of_a_path_that_keeps_us_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path / "locked")
    (tmp_path / "locked").mkdir()
    error = unreadable(tmp_path / "locked" / "a.json", PermissionError(errno.EACCES, "Permission denied"))
    assert error.hint.endswith(f": chmod u+rX {tmp_path / 'locked'}")
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    error = unreadable(tmp_path / "locked" / "a.json", PermissionError(errno.EACCES, "Permission denied"))
    assert error.hint.startswith(f"ask the owner of {tmp_path / 'locked'}")


def test_a_folder_that_may_not_be_read_is_not_an_empty_one(tmp_path, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "stat", denied)
    monkeypatch.setattr(os, "listdir", denied)
    for look in (is_there, lambda path: files_in(path, "*")):
        with pytest.raises(DpoError, match="cannot be read: Permission denied"):
            look(tmp_path)


def test_a_link_that_leads_nowhere_and_a_file_in_a_folders_place_are_nothing(tmp_path):
    os.symlink("nowhere", tmp_path / "link")
    (tmp_path / "file").touch()
    assert not is_there(tmp_path / "link")
    assert not is_there(tmp_path / "file" / "config.json")


def test_a_path_is_shown_on_one_line_and_not_endlessly():
    assert path_text("a\x1b]0;b\n") == r"a\x1b]0;b\n"
    assert len(path_text("x" * 5000)) < 250


def test_numbers_without_end_are_no_json(tmp_path):
    (tmp_path / "a.json").write_text('{"a": %s}' % ("9" * 5000))
    with pytest.raises(DpoError, match="not JSON: a number is too long"):
        read_object(tmp_path / "a.json")


# ---- the report


@pytest.mark.parametrize(
    "change",
    [{"eval/pairs": 10**400}, {"eval/pairs": 0}, {"eval/rewards/accuracies": 1e300}, {"step": 10**400}],
    ids=["of a size beyond floats", "of none", "with more wins than pairs", "after endless steps"],
)
def test_a_report_of_impossible_counts_is_refused(change, surroundings, refusal, tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    number = next(i for i, row in enumerate(rows) if change.keys() <= row.keys())
    rows[number] |= change
    path.write_text(lines(*rows))
    error, remedy = refusal("report", "--run", "run")
    assert error.startswith(f"run/metrics.jsonl:{number + 1}: ")
    assert "remove it" in remedy


def test_a_read_only_disk_is_told_although_it_refuses_the_clearing_up_too(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(DpoError, match=r"report.html: cannot be written: Read-only file system") as caught:
        with_replacement(tmp_path / "report.html", refuse)
    assert "free some space" not in caught.value.hint
