"""A writer may be killed at any moment: nothing half-written is left, and the next run writes all of it.

Every kill is a -9; what was being written is cut in half.
"""

import json
import subprocess
import sys
import time
from importlib.util import find_spec

import mlx.core as mx
import pytest

from mlx_dpo.demo.family_models import make_adapter
from mlx_dpo.demo.tiny_models import make_model
from mlx_dpo.models.base_of_adapter import base_sums
from mlx_dpo.models.load import load_tokenizer

from ..conftest import ROOT
from ..support.mistakes import lines

MOMENTS = 10
WRITERS = {
    "fuse": ("plain", "fuse"),
    "fuse on the ladder": ("4-bit", "fuse --precision auto --max-kl-ratio 0.3"),
    "peft": ("plain", "export peft --no-prove"),
    "hf": ("plain", "export hf --no-prove"),
    "gguf": ("plain", "export gguf --no-prove --type q8_0"),
    "gguf --lora": ("plain", "export gguf --lora"),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, pair_rows):
    """A run's folder by its base, which is so large that its hash is kept in the cache."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "valid.jsonl").write_text(lines(*pair_rows[:2]))

    def get(kind):
        run = folder / kind
        if not run.exists():
            texts = [row["chosen"] for row in pair_rows[:60]]
            sizes = {"hidden": 128, "vocab": 512, "layers": 3 if kind == "plain" else 8}
            bits = 4 if kind == "4-bit" else None
            base = make_model(folder / f"{kind}-base", "llama", texts, bits=bits, **sizes)
            assert (base / "model.safetensors").stat().st_size > 2**20
            time.sleep(2.1)  # the hash of a file is kept once it has not changed for two seconds
            make_adapter(base, run, sums=base_sums(base, load_tokenizer(base)))
            data = {"train": str(folder / "valid.jsonl"), "valid": str(folder / "valid.jsonl")}
            (run / "config.yaml").write_text(json.dumps({"model": {"path": str(base)}, "data": data}))
        return run

    return get


@pytest.mark.parametrize("writer", WRITERS)
def test_a_writer_killed_at_any_of_ten_moments_leaves_nothing_behind_the_next_one(tmp_path, runs, writer):
    kind, command = WRITERS[writer]
    if "gguf" in command and find_spec("gguf") is None:
        pytest.skip("the package gguf is not installed")
    folders = [str(tmp_path / name) for name in ("start", "work", "states")]
    words = [*command.split(), "--run", str(runs(kind)), "--output", "out"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.kills", *folders, str(MOMENTS), *words],
        cwd=ROOT, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    codes = json.loads(done.stdout.splitlines()[-1])
    assert codes.pop("whole") == 0, done.stderr[-2000:]
    assert len(codes) == MOMENTS
    states = tmp_path / "states"
    whole = contents(states / "whole")
    halves = 0
    for moment, (killed, again) in codes.items():
        left = contents(states / moment / "killed")
        there = any(name.startswith("out/") for name in left)
        assert (killed, again) == (-9, 1 if there else 0)  # a whole one is not replaced
        assert not there or left.items() >= {n: v for n, v in whole.items() if n.startswith("out/")}.items()
        assert not any(name.startswith("tmp/") for name in left)
        halves += any(path.name.startswith(".") for path in (states / moment / "killed").rglob("*"))
        assert contents(states / moment / "again") == whole
    assert halves >= MOMENTS // 3


def contents(folder):
    """All files of a folder by name; weights as numbers, since the order of a file's header is free.

    Without the functions that MLX compiles for a CPU and keeps in tmp/mlx for any program.
    """
    return {
        name: numbers(path) if path.suffix == ".safetensors" else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not (name := str(path.relative_to(folder))).startswith("tmp/mlx/")
    }


def numbers(path):
    """The weights of a file; None if it is cut."""
    try:
        return {name: value.tolist() for name, value in mx.load(str(path)).items()}
    except (RuntimeError, ValueError):
        return None
