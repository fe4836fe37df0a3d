#!/usr/bin/env python
"""Planned against measured peak memory of a training step: model, length, checkpointing, branches, rank.

    python benchmarks/bench_plan.py [--markdown] [--only llama]
    python benchmarks/bench_plan.py [--markdown] [--only sft] --model FOLDER [FOLDER ...]

Each row is planned without weights, then trained: two updates of two micro-batches with AdamW; the second's
peak counts. The models are small ones with random weights, float32 unless said; or, with --model, those in
the folders. Pairs are random tokens. Prints JSON, or a Markdown table; fails where a plan is below the
measured peak, or more than 25 % above it.
"""

import argparse
import gc
import json
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import mlx_dpo  # noqa: F401  (loads the fast BLAS, so it comes before MLX)

# isort: split
import mlx.core as mx
import numpy as np

from mlx_dpo.data.tokenize import TokenizedPair
from mlx_dpo.demo.tiny_models import make_model
from mlx_dpo.forward.checkpointing import checkpoint_layers
from mlx_dpo.losses import LossConfig, build_loss
from mlx_dpo.models.adapters import AdapterConfig, attach
from mlx_dpo.models.config_files import read_model_config
from mlx_dpo.models.load import load_model
from mlx_dpo.optimizers import OptimizerConfig, build_optimizer
from mlx_dpo.planning.model_without_weights import skeleton
from mlx_dpo.planning.step_memory import forward_of, need
from mlx_dpo.training.layout import Layout
from mlx_dpo.training.step import pair_gradient, update
from mlx_dpo.training.window_gradient import window_gradient

_MOST = 1.25
"""Planned over measured."""


class Case(NamedTuple):
    """One combination. Lengths are tokens of prompt, chosen and rejected."""

    model: str
    lengths: tuple[int, int, int]
    checkpointing: bool = False
    separate: bool = False
    rank: int = 8
    micro_batch: int = 1
    bits: int | None = None
    kind: str = "lora"
    forward: str = "shared"
    loss: str = "sigmoid"


LONG, SHORT, UNEQUAL, PROMPT = (512, 256, 256), (128, 96, 96), (384, 320, 90), (480, 32, 24)
MODES = [(False, False), (False, True), (True, False), (True, True)]
CASES = [
    *(Case(m, n, *mode) for m in ("llama", "granite", "qwen3") for n in (LONG, UNEQUAL) for mode in MODES),
    *(Case(m, SHORT, *mode, rank=64) for m in ("llama", "granite") for mode in MODES),
    *(Case(m, SHORT, *mode, micro_batch=3) for m in ("llama", "granite") for mode in MODES[::2]),
    *(Case(m, LONG, *mode, bits=4) for m in ("llama", "granite") for mode in MODES[::2]),
    *(Case(m, PROMPT, *mode) for m in ("llama", "granite") for mode in MODES[::2]),
    Case("llama", SHORT, kind="dora"),
    Case("llama", SHORT, kind="full"),
    Case("granite", SHORT, True, kind="full"),
    Case("llama", SHORT, forward="plain"),
    *(Case("llama", SHORT, checkpointing, loss="sft") for checkpointing in (False, True)),
]


def cases_of(folder: Path) -> list[Case]:
    """`train` and `sft`, prompts shared or not, blocks stored or computed again; lengths as pairs come.

    Rows of a 4-bit model are shorter: on a CPU its products are slow.
    """
    quantised = "quantization" in read_model_config(folder)
    lengths = [(24, 16, 40)] if quantised else [(40, 35, 250), (200, 150, 100)]
    return [
        Case(folder.name, n, checkpointing, forward=forward, loss=loss)
        for n in lengths
        for loss in ("sigmoid", "sft")
        for forward in ("shared", "plain")
        for checkpointing in (False, True)
    ]


def build_pairs(case: Case, words: int = 300) -> list[TokenizedPair]:
    """Pairs of random tokens below `words`; for `sft` the chosen answer is on both sides."""
    draw, pairs = np.random.default_rng(0), []
    for i in range(case.micro_batch):
        prompt, chosen, rejected = (draw.integers(5, words, n).astype(np.int32) for n in case.lengths)
        pairs.append(TokenizedPair(prompt, chosen, chosen if case.loss == "sft" else rejected, f"row:{i}"))
    return pairs


def _words(folder: Path) -> int:
    return read_model_config(folder)["vocab_size"]


def planned(case: Case, folder: Path) -> tuple[float, float, float]:
    """Peak in MB, seconds it took, and MB in memory for it."""
    start = time.perf_counter()
    mx.reset_peak_memory()
    adapter = AdapterConfig(type=case.kind, rank=case.rank)
    found = need(
        skeleton(folder, adapter),
        build_pairs(case, _words(folder)),
        case.micro_batch,
        Layout(case.checkpointing, case.separate),
        case.forward,
        build_loss(LossConfig(name=case.loss)),
        OptimizerConfig(learning_rate=2e-5),
    )
    return found.peak / 1e6, time.perf_counter() - start, mx.get_peak_memory() / 1e6


def measured(case: Case, folder: Path) -> float:
    """Peak in MB of the second update, without what was in memory before."""
    before = mx.get_active_memory()
    model, _ = load_model(folder)
    attach(model, AdapterConfig(type=case.kind, rank=case.rank))
    if case.checkpointing:
        checkpoint_layers(model)
    model.train()
    pairs = build_pairs(case, _words(folder))
    optimizer = build_optimizer(OptimizerConfig(), 2e-5, 10)
    forward = forward_of(case.forward, Layout(case.checkpointing, case.separate))[0]
    gradient = pair_gradient(model, build_loss(LossConfig(name=case.loss)), forward)
    window = [list(range(case.micro_batch))] * 2
    for _ in range(2):
        mx.clear_cache()
        mx.reset_peak_memory()
        mean, _result = window_gradient(
            gradient, pairs, window, np.zeros((len(pairs), 2), np.float32), mx.array(0.1)
        )
        update(model, optimizer, mean, 1.0)
        del mean
    return (mx.get_peak_memory() - before) / 1e6


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--only", default="", help="only cases whose description has this text")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--model", type=Path, nargs="+", default=[], help="folders of real models")
    a = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="bench-"))
    texts = [f"word{i} and" for i in range(6000)]
    rows = []
    given = [(case, folder) for folder in a.model for case in cases_of(folder)]
    for case, folder in given or [(case, root / f"{case.model}-{case.bits}") for case in CASES]:
        if a.only not in str(case):
            continue
        if not folder.exists():
            make_model(
                folder, case.model, texts, hidden=a.hidden, layers=a.layers, vocab=4096, bits=case.bits
            )
        plan, seconds, memory = planned(case, folder)
        gc.collect()
        real = measured(case, folder)
        gc.collect()
        rows.append(
            {
                **case._asdict(),
                "planned_mb": round(plan, 1),
                "measured_mb": round(real, 1),
                "ratio": round(plan / real, 3),
                "plan_seconds": round(seconds, 2),
                "plan_memory_mb": round(memory, 1),
            }
        )
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    wrong = [row for row in rows if not 1 <= row["ratio"] <= _MOST]
    if a.markdown:
        print(table(rows))
    else:
        print(json.dumps({"rows": rows, "mlx": version("mlx"), "mlx-lm": version("mlx-lm")}))
    sys.exit(f"{len(wrong)} of {len(rows)} outside 1 to {_MOST}" if wrong else 0)


def table(rows: list[dict]) -> str:
    """Markdown."""
    lines = ["| model | prompt/chosen/rejected | settings | planned MB | measured MB | ratio |"]
    lines.append("|---|---|---|---|---|---|")
    for row in rows:
        settings = [
            "sft" if row["loss"] == "sft" else "train",
            "checkpointing" if row["checkpointing"] else "",
            "separate" if row["separate"] else "joint",
            f"{row['kind']} {row['rank']}" if row["kind"] != "full" else "full",
            f"micro-batch {row['micro_batch']}" if row["micro_batch"] > 1 else "",
            f"{row['bits']}-bit" if row["bits"] else "",
            row["forward"] if row["forward"] != "shared" else "",
        ]
        lengths = "/".join(map(str, row["lengths"]))
        lines.append(
            f"| {row['model']} | {lengths} | {', '.join(filter(None, settings))} | {row['planned_mb']} "
            f"| {row['measured_mb']} | {row['ratio']:.3f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
