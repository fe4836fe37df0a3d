"""Peak memory of a training run against a forward-only baseline: is there a second copy of the weights?

    python benchmarks/bench_memory.py

A Llama of 20 million float32 parameters and short pairs, so that weights dominate. Each figure comes from a
process of its own; prints JSON in MB.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import mlx_dpo  # noqa: F401  (loads the fast BLAS, so it comes before MLX)

# isort: split
import mlx.core as mx

from mlx_dpo.config import load_config
from mlx_dpo.data.sources import read_pairs
from mlx_dpo.data.tokenize import tokenize_pairs
from mlx_dpo.demo.tiny_models import make_model
from mlx_dpo.export.fuse import fuse_run
from mlx_dpo.forward.pair_logps import COMPLETION
from mlx_dpo.forward.scoring import score_pairs
from mlx_dpo.jobs.train import train_run
from mlx_dpo.models.load import load_model, load_tokenizer, weight_bytes
from mlx_dpo.storage.jsonl import write_jsonl


def prepare(folder):
    rows = [
        {
            "prompt": f"How do I clean pan number {i}?",
            "chosen": f"Gladly, rub pan {i}.",
            "rejected": "Wash it.",
        }
        for i in range(2)
    ]
    texts = [" ".join(r.values()) for r in rows] + [f"word{i}" for i in range(3000)]
    make_model(folder / "base", "llama", texts, hidden=512, layers=6, vocab=2048)
    write_jsonl(folder / "train.jsonl", rows)


def forward_only(folder):
    """Load, score every pair, nothing else: (weights, peak) in MB."""
    rows = read_pairs(folder / "train.jsonl")
    pairs, _ = tokenize_pairs(rows, load_tokenizer(folder / "base"), 64)
    model, _ = load_model(folder / "base")
    score_pairs(model, pairs, COMPLETION, [[i] for i in range(len(pairs))])
    return weight_bytes(model) / 1e6, mx.get_peak_memory() / 1e6


def training(folder, kind):
    """A whole run from loading to the last update: peak in MB; reads the run's own report of it."""
    config = load_config(
        None,
        [
            f"model.path={folder / 'base'}",
            f"data.train={folder / 'train.jsonl'}",
            "data.valid=null",
            f"adapter.type={kind}",
            "adapter.rank=8",
            "training.epochs=1",
            f"run.output={folder / kind}",
        ],
    )
    loaded = mx.get_peak_memory()
    train_run(config)
    rows = [json.loads(line) for line in (folder / kind / "metrics.jsonl").read_text().splitlines()]
    return max(loaded / 1e6, max(r["peak_memory_gb"] for r in rows if "loss" in r) * 1e3)


def fusing(folder):
    """Base and adapter summed and written: peak in MB."""
    fuse_run(str(folder / "base"), folder / "lora", folder / "fused")
    return mx.get_peak_memory() / 1e6


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", choices=("forward", "lora", "dora", "fuse"))
    parser.add_argument("--folder", type=Path)
    a = parser.parse_args()
    if a.part:
        parts = {"forward": forward_only, "fuse": fusing}
        print(json.dumps(parts.get(a.part, lambda folder: training(folder, a.part))(a.folder)))
        return
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    prepare(folder)

    def part(name):
        command = [sys.executable, __file__, "--part", name, "--folder", str(folder)]
        environment = {**os.environ, "MLX_DPO_CACHE": str(folder / f"cache-{name}")}  # nothing is known yet
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
        return json.loads(done.stdout)

    weights, peak = part("forward")
    result = {"weights_mb": round(weights, 1), "forward_only_peak_mb": round(peak, 1)}
    result |= {f"training_{kind}_peak_mb": round(part(kind), 1) for kind in ("lora", "dora")}
    result["fusing_peak_mb"] = round(part("fuse"), 1)
    print(json.dumps(result | {"mlx": version("mlx"), "mlx-lm": version("mlx-lm")}))


if __name__ == "__main__":
    main()
