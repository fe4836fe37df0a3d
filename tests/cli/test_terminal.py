"""A command ends in one line also where the shell's own things fail: folder, output, encoding, interrupts."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import product

import pytest

from ..conftest import ROOT, some
from ..support.forking import command_code
from ..support.mistakes import lines, pair

FULL = "/dev/full"


def in_shell(line, folder, **environment):
    """A command line of bash, with mlx-dpo in it."""
    command = f"mlx-dpo() {{ {sys.executable} -m mlx_dpo \"$@\"; }}; cd '{folder}'; {line}"
    own = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **environment}
    return subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        encoding=own["PYTHONIOENCODING"],
        env=own,
        timeout=120,
    )


@pytest.mark.parametrize("command", ["inspect", "plan", "train", "eval --run r", "fuse --run r --output f"])
def test_a_current_folder_that_is_gone_is_told(command, tmp_path):
    (tmp_path / "gone").mkdir()
    done = in_shell(f"rmdir '{tmp_path}/gone'; mlx-dpo {command}", tmp_path / "gone")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: the current folder ")
    assert "No such file or directory\n  " in done.stderr and "cd to a folder" in done.stderr
    assert done.stderr.count("\n") == 2


@pytest.mark.skipif(not os.path.exists(FULL), reason="this system has no /dev/full")
@pytest.mark.parametrize("command", ["config", "--help", "plan --json", "inspect --no-model --json"])
def test_an_output_that_takes_no_more_is_told(command, tmp_path, models):
    (tmp_path / "rows.jsonl").write_text(lines(pair()))
    (tmp_path / "run.yaml").write_text(
        f"model: {{path: {models('llama')}}}\ndata: {{train: rows.jsonl, valid: null}}\n"
    )
    with_settings = "" if command in ("config", "--help") else f" --config {tmp_path}/run.yaml"
    done = in_shell(f"mlx-dpo {command}{with_settings} > {FULL}", tmp_path)
    assert done.returncode == 1
    said = done.stderr[done.stderr.find("Error: ") :]
    assert "No space left on device\n  free some space" in said and said.count("\n") == 2


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
def test_letters_that_the_output_cannot_show_are_escapes(encoding, tmp_path, models, outcome, monkeypatch):
    (tmp_path / "rows.jsonl").write_text(lines(pair(prompt="Où…", chosen="Là-bas…")))
    words = ["inspect", "--no-model", "--data", "rows.jsonl", "--model", str(models("llama"))]

    def shown(*more):
        output = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", output)
            assert outcome(*words, *more)[0] == 0
        output.seek(0)
        return output.read()

    (_, whole, _), (_, found, _) = outcome(*words), outcome(*words, "--json")
    assert "\\u" in shown() and shown() == whole.encode(encoding, "backslashreplace").decode(encoding)
    assert json.loads(shown("--json")) == json.loads(found)
    if encoding == "latin-1":
        done = in_shell("mlx-dpo " + " ".join(words), tmp_path, PYTHONIOENCODING=encoding)
        assert (done.returncode, done.stdout) == (0, shown())


COMMANDS = ("train", "gen-pairs", "inspect", "eval", "fuse")
STOPPED = """
import sys, time
from mlx_dpo.models import load
def wait(*a, **k):
    print("here", file=sys.stderr, flush=True)
    time.sleep(60)
load.read_model_config = wait
"""
"""Every command then waits where the model's config is read."""
STOPS = {signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.mark.parametrize(
    ("command", "number"),
    some(product(COMMANDS, STOPS), *product(COMMANDS, [signal.SIGINT]), ("train", signal.SIGTERM)),
)
def test_a_command_that_is_stopped_says_that_nothing_is_lost(
    command, number, tmp_path, models, trained, forked
):
    """While the model's config is read, long before the first update."""
    base = shutil.copytree(models("llama"), tmp_path / "base")
    shutil.copytree(trained("llama"), tmp_path / "run")
    (tmp_path / "rows.jsonl").write_text(lines(pair(answer="So.")))
    given = {
        "train": "--data rows.jsonl --output out",
        "gen-pairs": "--source rows.jsonl --output pairs",
        "inspect": "--data rows.jsonl",
        "eval": "--run run",
        "fuse": "--run run --output fused",
    }
    process = forked(
        code=STOPPED + command_code([command, *given[command].split(), "--model", base]), cwd=tmp_path
    )
    while "here" not in process.stderr and process.poll() is None:
        time.sleep(0.001)
    before = len(process.stderr)
    process.send_signal(number)
    assert process.wait() == STOPS[number], process.stderr
    (told,) = process.stderr[before:].strip().splitlines()
    assert told.startswith("interrupted: ") and "same command again" in told
