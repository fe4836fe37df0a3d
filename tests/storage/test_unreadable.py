"""As an ordinary user: no permission on a file or folder is said in one line, and nothing is lost.

Permissions mean nothing to root. Where the tests are root's, all runs in one process, which becomes another
user when what the commands import is loaded: that user need not be able to read the libraries.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ..conftest import ROOT, curated_rows
from ..support.mistakes import curated, lines

SETTINGS = "--set data.train=train.jsonl --set data.valid=valid.jsonl"
GO_ON = f"train --model model {SETTINGS} --set training.samples=0 --output run --accept-changes"
COMMANDS = {
    "train": f"train --model model {SETTINGS} --output out",
    "start": f"train --model model {SETTINGS} --set model.adapter=run --output out",
    "go on": f"{GO_ON} --set training.epochs=9",
    "resume": f"{GO_ON} --set training.epochs=12",
    "inspect": "inspect --no-model --model model --data train.jsonl",
    "plan": "plan --model model --set data.train=train.jsonl --set data.valid=null",
    "eval": "eval --run run --samples 0",
    "report": "report --run run",
    "fuse": "fuse --run run --output fused",
    "gen-pairs": "gen-pairs --model model --source curated.jsonl --output pairs --max-tokens 4",
}
LOCKED = {
    "model": ("train", "plan"),
    "model/config.json": ("train", "inspect", "gen-pairs"),
    "model/generation_config.json": ("train", "fuse"),
    "model/model.safetensors": ("train", "eval", "fuse", "gen-pairs"),
    "model/tokenizer.json": ("train", "inspect", "gen-pairs"),
    "model/tokenizer_config.json": ("train", "inspect", "gen-pairs"),
    "model/special_tokens_map.json": ("inspect",),
    "model/chat_template.jinja": ("inspect",),
    "train.jsonl": ("train", "inspect", "eval"),
    "valid.jsonl": ("train", "eval"),
    "run": ("start", "eval", "report", "fuse", "resume"),
    "run/config.yaml": ("eval", "report", "fuse"),
    "run/adapter_config.json": ("start", "eval", "fuse"),
    "run/adapters.safetensors": ("start", "eval", "fuse"),
    "run/metrics.jsonl": ("report", "resume"),
    "run/events.jsonl": ("report", "resume"),
    "run/samples.jsonl": ("report",),
    "run/inspection.json": ("report",),
    "run/checkpoints/NEWEST": ("resume",),
    "run/checkpoints/NEWEST/state.json": ("resume",),
    "run/checkpoints/NEWEST/state.npz": ("resume",),
    "run/checkpoints/NEWEST/adapters.safetensors": ("resume",),
    "pairs": ("gen-pairs",),
    "pairs/completions.json": ("gen-pairs",),
    "pairs/completions.jsonl": ("gen-pairs",),
    "curated.jsonl": ("gen-pairs",),
    "cache/rows/ENTRY": ("train",),
    "cache/rows/ENTRY/entry.json": ("train",),
    "cache/rows/ENTRY/lines": ("train",),
}
CASES = [(path, command) for path, commands in LOCKED.items() for command in commands]

SCRIPT = """
import contextlib, io, json, os, shutil, sys, traceback
from pathlib import Path
os.umask(0o022)
from mlx_dpo.cli import main
from mlx_dpo.console import console

def run(command):
    said = console.file = io.StringIO()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            main(command.split())
    except SystemExit as stop:
        return stop.code, said.getvalue()
    except BaseException:
        return "traceback", traceback.format_exc()

def whole():
    kept = ("model", "run", "pairs", "out", "fused")
    return {str(p): p.stat().st_mtime_ns for k in kept for p in Path(k).rglob("*") if p.is_file()}

cases, commands = json.loads(sys.argv[1]), json.loads(sys.argv[2])
first = [run(commands[name]) for name in ("go on", "gen-pairs", "report", "fuse", "inspect")]
shutil.rmtree("fused")
if os.geteuid() == 0:
    for path in (Path("."), *Path(".").rglob("*")):
        os.chown(path, 65534, 65534)
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
newest = str(max(Path("run/checkpoints").iterdir()).name)
found = []
for path, command in cases:
    below = path.replace("NEWEST", newest)
    paths = [Path(below)]
    if "ENTRY" in path:
        kind, _, rest = below.partition("ENTRY")
        paths = [entry / rest.lstrip("/") for entry in Path(kind).iterdir() if entry.is_dir()]
    before, modes = whole(), [p.stat().st_mode for p in paths]
    for p in paths:
        p.chmod(0)
    code, said = run(commands[command])
    for p, mode in zip(paths, modes):
        p.chmod(mode)
    found.append([code, said, whole() == before])
print(json.dumps([first, found]))
"""


@pytest.fixture(scope="module")
def outcomes(models, trained):
    """By path and command: exit code, what was said, whether all files stayed as they were."""
    folder = Path(tempfile.mkdtemp(prefix="mlx_dpo_locked_", dir="/tmp"))
    try:
        model = shutil.copytree(models("llama"), folder / "model")
        shutil.copytree(trained("llama"), folder / "run")
        template = json.loads((model / "tokenizer_config.json").read_text())["chat_template"]
        (model / "chat_template.jinja").write_text(template)
        (model / "special_tokens_map.json").write_text("{}")
        (model / "generation_config.json").write_text('{"top_k": 20}')
        config = (folder / "run" / "config.yaml").read_text()
        config = config.replace(str(models("llama")), "model").replace(f"{trained('llama').parent}/", "")
        (folder / "run" / "config.yaml").write_text(config)
        (folder / "run" / "samples.jsonl").touch()
        for name in ("train.jsonl", "valid.jsonl"):
            shutil.copy(trained("llama").parent / name, folder)
        (folder / "curated.jsonl").write_text(
            lines(*(curated(prompt=r["prompt"]) for r in curated_rows("base.jsonl")[:3]))
        )
        yield _run(folder)
    finally:
        shutil.rmtree(folder)


def _run(folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MLX_DPO_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(CASES), json.dumps(COMMANDS)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    first, found = json.loads(done.stdout.splitlines()[-1])
    assert [code for code, _ in first] == [0] * len(first), first
    return dict(zip(CASES, found, strict=True))


@pytest.mark.parametrize("case", CASES, ids=" of ".join)
def test_a_locked_file_or_folder_is_told_in_one_line_and_nothing_is_lost(case, outcomes):
    code, said, untouched = outcomes[case]
    assert (code, untouched) == (1, True), said
    error, remedy = said[said.index("Error: ") :].splitlines()
    assert "Permission denied" in error
    for wrong in ("damaged", "no such file", "--overwrite", "download", "free some space"):
        assert wrong not in error + remedy
    assert any(right in remedy for right in ("chmod", "MLX_DPO_CACHE", "YAML", "another output folder"))
