#!/usr/bin/env python
"""Time and memory of a training step: shared prompts, the plain forward, the supervised floor, others.

    python benchmarks/bench_step.py                       # Llama, micro-batch 1, four kinds of pairs
    python benchmarks/bench_step.py --model granite --work A C --checkpointing 1
    python benchmarks/bench_step.py --peers FOLDER        # also trainers installed there
    python benchmarks/bench_step.py --model smollm2 --rows pairs.jsonl --peers FOLDER

With --rows FILE the pairs are those of a file that gen-pairs wrote, rendered by the model's chat template:
the workload "rows". The model "smollm2" is the real one that scripts/get_smollm2.py makes.

Each measurement is a process of its own; kinds take turns in every round, so that a slower minute of the
machine hits all of them. A step is gradient, clipping and AdamW update of LoRA rank 8 on every linear layer,
the reference scored before. Prints one JSON object: median, least and most of the rounds' medians, seconds a
pair; peak memory over the loaded model; versions; hardware.

The floor is a supervised step on prompt, chosen and rejected as one sequence, each token once, logits of
answer tokens only, compiled: what mlx-lm's own training would cost at best.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path

import mlx_dpo  # noqa: F401  (loads the fast BLAS, so it comes before MLX)

# isort: split
import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
import numpy as np
from tokenizers import Tokenizer

from mlx_dpo.data.chat_template import render
from mlx_dpo.data.tokenize import TokenizedPair
from mlx_dpo.demo.tiny_models import initialise
from mlx_dpo.forward.checkpointing import checkpoint_layers
from mlx_dpo.forward.pair_logps import PLAIN, SEPARATE, SHARED
from mlx_dpo.forward.scoring import score_pairs
from mlx_dpo.losses import LossConfig, build_loss
from mlx_dpo.models.adapters import AdapterConfig, attach
from mlx_dpo.models.load import load_model, load_tokenizer
from mlx_dpo.storage.cache import cache_folder
from mlx_dpo.storage.jsonl import write_jsonl
from mlx_dpo.training.step import pair_gradient, update
from mlx_dpo.training.window_gradient import window_gradient

LENGTHS = {"A": (384, 64, 64), "B": (128, 128, 128), "C": (64, 256, 256)}
"""Tokens of prompt, chosen, rejected; D has unequal ones."""
LLAMA = {
    "model_type": "llama",
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "head_dim": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "vocab_size": 16384,
    "tie_word_embeddings": True,
    "max_position_embeddings": 4096,
}
GRANITE = {
    "model_type": "granitemoehybrid",
    "hidden_size": 384,
    "intermediate_size": 1024,
    "shared_intermediate_size": 1024,
    "num_hidden_layers": 10,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "attention_bias": False,
    "rms_norm_eps": 1e-5,
    "vocab_size": 16384,
    "max_position_embeddings": 4096,
    "embedding_multiplier": 12.0,
    "attention_multiplier": 0.015625,
    "logits_scaling": 3.0,
    "residual_multiplier": 0.246,
    "layer_types": ["attention" if i % 5 == 4 else "mamba" for i in range(10)],
    "num_local_experts": 0,
    "num_experts_per_tok": 0,
    "position_embedding_type": "nope",
    "tie_word_embeddings": True,
    "mamba_n_heads": 12,
    "mamba_d_head": 64,
    "mamba_d_state": 64,
    "mamba_d_conv": 4,
    "mamba_n_groups": 1,
    "mamba_expand": 2,
    "mamba_conv_bias": True,
    "mamba_proj_bias": False,
    "rope_theta": 10000.0,
}
SMOLLM2 = cache_folder() / "models" / "smollm2-135m"
MODELS = {"llama": LLAMA, "granite": GRANITE, "llama_bigv": {**LLAMA, "vocab_size": 128256}}
REAL, ROWS = "smollm2", "rows"
FORWARDS = {"shared": SHARED, "separate": SEPARATE, "plain": PLAIN, "compiled": SHARED}
PEERS = {
    "mlx-tune": ("venv-mlxtune", "bench_mlx_tune.py"),
    "unsloth-zoo": ("venv-unsloth", "bench_unsloth.py"),
}
WARMUP, PAIRS = 2, 8


def make_model(name: str) -> nn.Module:
    """The model with LoRA rank 8 on every linear layer; random weights, unless it is the real one."""
    from mlx_lm.utils import _get_classes

    if name == REAL:
        model, _ = load_model(SMOLLM2)
        attach(model, AdapterConfig(rank=8))
        return model
    kind, arguments = _get_classes(MODELS[name])
    model = kind(arguments.from_dict(MODELS[name]))
    initialise(model, seed=0)
    attach(model, AdapterConfig(rank=8))
    return model


def files(model: str, work: str, peers: Path, rendered: Path | None = None) -> tuple[Path, Path]:
    """Folder of the model, and file of the pairs, that all trainers are given."""
    folder = SMOLLM2 if model == REAL else peers / "models" / model
    return folder, rendered if work == ROWS else peers / "pairs" / f"{work}.jsonl"


def render_rows(rows: Path, target: Path) -> None:
    """Write a file's pairs as texts that the model reads: rendered prompts, answers with an end of turn."""
    tokenizer = load_tokenizer(SMOLLM2)
    rendered = [
        {
            "prompt": render(tokenizer, [{"role": "user", "content": row["prompt"]}], generation_prompt=True),
            "chosen": row["chosen"] + tokenizer.eos_token,
            "rejected": row["rejected"] + tokenizer.eos_token,
        }
        for row in map(json.loads, rows.read_text().splitlines())
    ]
    write_jsonl(target, rendered)


def read_pairs(model: Path, file: Path, count: int) -> list[TokenizedPair]:
    """The first pairs of a file of texts."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    pairs = []
    for row in map(json.loads, file.read_text().splitlines()[:count]):
        prompt = tokenizer.encode(row["prompt"]).ids
        answers = [tokenizer.encode(row["prompt"] + row[name]).ids for name in ("chosen", "rejected")]
        parts = [prompt, *(answer[len(prompt) :] for answer in answers)]
        arrays = [np.array(part, np.int32) for part in parts]
        pairs.append(TokenizedPair(*arrays, f"{file.stem}:{len(pairs)}"))
    return pairs


def make_pairs(work: str, count: int, vocabulary: int = 16384) -> list[TokenizedPair]:
    """Random tokens in the workload's numbers."""
    rng = np.random.default_rng(1)

    def ragged():
        draws = ((160, 0.6, 16, 512), (110, 0.7, 8, 384), (110, 0.7, 8, 384))
        return [int(np.clip(rng.lognormal(np.log(m), s), low, high)) for m, s, low, high in draws]

    sizes = [LENGTHS.get(work) or ragged() for _ in range(count)]
    return [
        TokenizedPair(*(rng.integers(3, vocabulary, n).astype(np.int32) for n in size), f"{work}:{i}")
        for i, size in enumerate(sizes)
    ]


def dpo_step(model: nn.Module, pairs: list[TokenizedPair], kind: str, reference: np.ndarray):
    """A function of row numbers that makes one update of a training run."""
    forward = FORWARDS[kind]
    compute = pair_gradient(model, build_loss(LossConfig()), forward, compiled=kind == "compiled")
    optimizer = optimizers.AdamW(learning_rate=1e-5, bias_correction=True)
    model.train()

    def step(rows):
        gradient, _ = window_gradient(compute, pairs, [rows], reference, mx.array(0.1))
        update(model, optimizer, gradient, 1.0)

    return step


def floor_step(model: nn.Module, pairs: list[TokenizedPair]):
    """A compiled supervised step on the same tokens, each once."""
    optimizer = optimizers.AdamW(learning_rate=1e-5)
    model.train()

    def loss(model, tokens, skip):
        hidden = model.model(tokens[:, :-1])[:, skip:]
        logits = model.model.embed_tokens.as_linear(hidden) / getattr(model.args, "logits_scaling", 1.0)
        return nn.losses.cross_entropy(logits.astype(mx.float32), tokens[:, 1 + skip :]).mean()

    state = [model.state, optimizer.state, mx.random.state]

    @partial(mx.compile, inputs=state, outputs=state)
    def compiled(tokens, skip):
        value, gradient = nn.value_and_grad(model, loss)(model, tokens, skip)
        optimizer.update(model, gradient)
        return value

    def step(rows):
        parts = [np.concatenate([pairs[i].prompt, pairs[i].chosen, pairs[i].rejected]) for i in rows]
        width = max(map(len, parts))
        tokens = mx.array(np.stack([np.pad(p, (0, width - len(p))) for p in parts]))
        value = compiled(tokens, min(len(pairs[i].prompt) for i in rows) - 1)
        mx.eval(state, value)

    return step


def measure(kind: str, work: str, options: argparse.Namespace) -> dict:
    """Median seconds a pair, and peak MB over the loaded model."""
    micro_batch, checkpointing, steps = options.micro_batch, options.checkpointing, options.steps
    model, count = make_model(options.model), options.pairs or PAIRS * micro_batch
    if options.peers or work == ROWS:
        pairs = read_pairs(*files(options.model, work, options.peers, options.rendered), count)
    else:
        pairs = make_pairs(work, count)
    if checkpointing:
        checkpoint_layers(model)
    mx.eval(model.parameters())
    mx.clear_cache()
    base = mx.get_active_memory()
    found = {}
    if kind == "floor":
        step = floor_step(model, pairs)
    else:
        start = time.perf_counter()
        reference = score_pairs(model, pairs, FORWARDS[kind], [[i] for i in range(len(pairs))])
        found["ref_s_per_pair"] = (time.perf_counter() - start) / len(pairs)
        step = dpo_step(model, pairs, kind, reference)
    # Ragged pairs are each traced once before the clock starts.
    warmup = WARMUP + (len(pairs) if work in ("D", ROWS) and kind in ("floor", "compiled") else 0)
    seconds, tokens = [], []
    for number in range(warmup + steps):
        rows = [(number * micro_batch + i) % len(pairs) for i in range(micro_batch)]
        if number == warmup:
            mx.reset_peak_memory()
        start = time.perf_counter()
        step(rows)
        seconds.append((time.perf_counter() - start) / micro_batch)
        tokens.append(sum(pairs[i].tokens for i in rows) / micro_batch)
    return found | {
        "s_per_pair": statistics.median(seconds[warmup:]),
        "s_per_1k_tokens": 1000 * sum(seconds[warmup:]) / sum(tokens[warmup:]),
        "peak_mb": (mx.get_peak_memory() - base) / 1e6,
    }


def run_worker(kind: str, options: argparse.Namespace, work: str) -> dict:
    """One measurement in a process of its own."""
    micro_batch, checkpointing = str(options.micro_batch), str(options.checkpointing)
    if kind in PEERS:
        folder = options.peers
        model, pairs = files(options.model, work, options.peers, options.rendered)
        environment, script = PEERS[kind]
        arguments = [
            *(folder / environment / "bin" / "python", folder / script),
            *("--model", model, "--pairs", pairs),
            *("--batch-size", micro_batch, "--ckpt", checkpointing),
            *("--limit", str(options.pairs or PAIRS * options.micro_batch)),
            *("--steps", str(options.steps), "--warmup", str(WARMUP)),
        ]
    else:
        arguments = [
            *(sys.executable, __file__, "--worker", kind, "--model", options.model, "--work", work),
            *("--micro-batch", micro_batch, "--checkpointing", checkpointing, "--steps", str(options.steps)),
            *(("--peers", options.peers) if options.peers else ()),
            *(("--rendered", options.rendered) if options.rendered else ()),
            *(("--pairs", str(options.pairs)) if options.pairs else ()),
        ]
    done = subprocess.run(list(map(str, arguments)), capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise SystemExit(f"{kind}: {done.stderr[-2000:]}")
    result = json.loads(lines[-1].removeprefix("RESULT "))
    if kind in PEERS:
        result["peak_mb"] -= result["base_mb"]
        result["s_per_1k_tokens"] = result["s_per_1k_unique"]
    return result


def summary(results: list[dict]) -> dict:
    """Over rounds: median, least and most of each figure."""
    figures = {"s_per_pair": 4, "s_per_1k_tokens": 4, "ref_s_per_pair": 4, "peak_mb": 1}
    return {
        name: [round(f([r[name] for r in results]), digits) for f in (statistics.median, min, max)]
        for name, digits in figures.items()
        if name in results[0]
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=[*MODELS, REAL], default="llama")
    parser.add_argument("--work", nargs="+", choices=[*LENGTHS, "D", ROWS])
    parser.add_argument("--rows", type=Path, help="pairs of this file, for the model smollm2")
    parser.add_argument("--kinds", nargs="+", default=["shared", "plain", "floor"])
    parser.add_argument("--micro-batch", type=int, default=1)
    parser.add_argument("--checkpointing", type=int, choices=(0, 1), default=0)
    parser.add_argument("--steps", type=int, default=6, help="timed steps a measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", type=int, help="pairs that steps go through in turn (8 micro-batches)")
    parser.add_argument(
        "--peers", type=Path, help="folder with other trainers' environments, scripts, models and pairs"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--rendered", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        result = measure(options.worker, *options.work, options)
        print("RESULT " + json.dumps(result))
        return
    if ROWS in (options.work or ()) and not options.rows:
        parser.error("--work rows needs --rows FILE")
    if options.rows and options.model != REAL:
        parser.error("--rows needs --model smollm2, whose chat template renders them")
    options.work = options.work or ([ROWS] if options.rows else [*LENGTHS, "D"])
    if options.rows:
        options.rendered = Path(tempfile.mkdtemp()) / "rows.jsonl"
        render_rows(options.rows, options.rendered)
    kinds = [*options.kinds, *(PEERS if options.peers else ())]
    table = {}
    for work in options.work:
        rounds = {kind: [] for kind in kinds}
        for _ in range(options.rounds):
            for kind in kinds:
                rounds[kind].append(run_worker(kind, options, work))
                print(work, kind, json.dumps(rounds[kind][-1]), file=sys.stderr, flush=True)
        table[work] = {kind: summary(results) for kind, results in rounds.items()}
    names = ("mlx", "mlx-lm", "mlx-dpo")
    report = {
        "model": options.model,
        "micro_batch": options.micro_batch,
        "checkpointing": bool(options.checkpointing),
        "rounds": options.rounds,
        "versions": {name: version(name) for name in names} | {"python": platform.python_version()},
        "hardware": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "median_least_most": table,
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
