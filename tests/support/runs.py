"""What a run reads and writes: its pairs, what it logged, its adapter."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_dpo.data.pair_store import open_pairs
from mlx_dpo.jobs.run_inputs import read_rows
from mlx_dpo.models.load import load_tokenizer

CLOCK = ("tokens_per_second", "pairs_per_second", "peak_memory_gb", "process_memory_gb")
"""What in a run's metrics depends on the machine's mood."""


def rows_of(folder):
    """What a run logged: its reports, its held-out evaluations."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [r for r in rows if "loss" in r], [r for r in rows if "eval/loss" in r]


def weights_of(folder):
    """A run's adapter by name."""
    return {n: np.array(w) for n, w in mx.load(str(folder / "adapters.safetensors")).items()}


def train_pairs(config):
    """The pairs that a run with these settings trains on."""
    rows, _ = read_rows(config)
    return open_pairs(rows, load_tokenizer(Path(config.model.path)), config.data.max_length)


def tokens_of(pairs):
    """Pairs as plain lists, with where they stand."""
    return [(p.prompt.tolist(), p.chosen.tolist(), p.rejected.tolist(), p.where) for p in pairs]
