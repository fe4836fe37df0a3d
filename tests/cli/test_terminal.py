"""A command ends in one line also where the shell's own things fail: folder, output, encoding, interrupts."""

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


def test_letters_that_the_output_cannot_show_are_escapes(tmp_path, models):
    (tmp_path / "rows.jsonl").write_text(lines(pair(prompt="Où…", chosen="Là-bas…")))
    command = f"mlx-dpo inspect --no-model --data rows.jsonl --model {models('llama')}"
    whole, found = (in_shell(line, tmp_path).stdout for line in (command, f"{command} --json"))
    for encoding in ("latin-1", "cp1252"):
        shown = in_shell(command, tmp_path, PYTHONIOENCODING=encoding)
        assert shown.returncode == 0 and "\\u" in shown.stdout
        assert whole.encode(encoding, "backslashreplace").decode(encoding) == shown.stdout
        as_json = in_shell(f"{command} --json", tmp_path, PYTHONIOENCODING=encoding)
        assert json.loads(as_json.stdout) == json.loads(found)


COMMANDS = ("train", "gen-pairs", "inspect", "eval", "fuse")
STOPS = {signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.mark.parametrize(
    ("command", "number"),
    some(product(COMMANDS, STOPS), *product(COMMANDS, [signal.SIGINT]), ("train", signal.SIGTERM)),
)
def test_a_command_that_is_stopped_says_that_nothing_is_lost(command, number, tmp_path, models, trained):
    """While the model's config is read, long before the first update."""
    base = shutil.copytree(models("llama"), tmp_path / "base")
    shutil.copytree(trained("llama"), tmp_path / "run")
    (tmp_path / "rows.jsonl").write_text(lines(pair(answer="So.")))
    stopped = tmp_path / "stopped.py"
    stopped.write_text(
        "import sys, time\nimport mlx_dpo\nfrom mlx_dpo.cli import main\nfrom mlx_dpo.models import load\n"
        "def wait(*a, **k):\n    print('here', file=sys.stderr, flush=True)\n    time.sleep(60)\n"
        "load.read_model_config = wait\nmain()\n"
    )
    given = {
        "train": "--data rows.jsonl --output out",
        "gen-pairs": "--source rows.jsonl --output pairs",
        "inspect": "--data rows.jsonl",
        "eval": "--run run",
        "fuse": "--run run --output fused",
    }
    words = [command, *given[command].split(), "--model", str(base)]
    process = subprocess.Popen(
        [sys.executable, str(stopped), *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    said = ""
    while "here" not in said and (line := process.stderr.readline()):
        said += line
    time.sleep(0.2)
    os.kill(process.pid, number)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == STOPS[number], said + rest
    (told,) = rest.strip().splitlines()
    assert told.startswith("interrupted: ") and "same command again" in told
