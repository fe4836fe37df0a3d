#!/usr/bin/env python
"""Does memory grow over a run? Pairs of unequal length, a thousand micro-batches, windows of eight.

    python benchmarks/bench_flat.py

The same window of eight, the longest pair among them, ends at micro-batch 50 and at 1,000. Prints JSON, MB
after and during it: MLX's arrays, their peak, kept by MLX's allocator for reuse, resident in the process.
"""

import json
from importlib.metadata import version
from itertools import chain, count

import mlx_dpo  # noqa: F401  (loads the fast BLAS, so it comes before MLX)

# isort: split
import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
import numpy as np

from mlx_dpo.data.batches import epoch_windows
from mlx_dpo.data.tokenize import TokenizedPair
from mlx_dpo.demo.tiny_models import ARCHITECTURES, initialise
from mlx_dpo.forward.pair_logps import SHARED
from mlx_dpo.forward.scoring import score_pairs
from mlx_dpo.losses import LossConfig, build_loss
from mlx_dpo.machine.resources import process_memory
from mlx_dpo.models.adapters import AdapterConfig, attach
from mlx_dpo.training.step import cap_cache, pair_gradient, update
from mlx_dpo.training.window_gradient import window_gradient

VOCABULARY, PAIRS, ACCUMULATION, MARKS = 2048, 250, 8, (50, 1000)


def make_model() -> nn.Module:
    """A small Granite hybrid with LoRA rank 8."""
    from mlx_lm.models.granitemoehybrid import Model, ModelArgs

    model = Model(ModelArgs.from_dict(ARCHITECTURES["granite"][0](128, 4, VOCABULARY)))
    initialise(model, seed=0)
    attach(model, AdapterConfig(rank=8))
    return model


def make_pairs() -> list[TokenizedPair]:
    """Prompts of 16 to 256 tokens, answers of 8 to 192; the longest pair is first."""
    rng = np.random.default_rng(0)
    sizes = [(256, 192, 192)] + [
        [
            int(np.clip(rng.lognormal(np.log(m), 0.7), low, high))
            for m, low, high in ((80, 16, 256), *[(50, 8, 192)] * 2)
        ]
        for _ in range(PAIRS - 1)
    ]
    return [
        TokenizedPair(*(rng.integers(1, VOCABULARY, n).astype(np.int32) for n in size), f"random:{i}")
        for i, size in enumerate(sizes)
    ]


def main() -> None:
    mx.set_cache_limit(2**30)
    model, pairs = make_model(), make_pairs()
    reference = score_pairs(model, pairs, SHARED, [[i] for i in range(PAIRS)])
    compute = pair_gradient(model, build_loss(LossConfig()), SHARED)
    optimizer = optimizers.AdamW(learning_rate=1e-5, bias_correction=True)
    model.train()

    def train(window):
        gradient, _ = window_gradient(compute, pairs, window, reference, mx.array(0.1))
        update(model, optimizer, gradient, 1.0)
        cap_cache()

    windows = chain.from_iterable(epoch_windows(pairs, ACCUMULATION, 1, 0, epoch) for epoch in count())
    seen, report = 0, {}
    for mark in MARKS:
        while seen < mark - ACCUMULATION:
            window = next(windows)
            train(window)
            seen += len(window)
        mx.reset_peak_memory()
        train([[i] for i in range(ACCUMULATION)])
        seen += ACCUMULATION
        report[f"after {mark}"] = {
            "active_mb": round(mx.get_active_memory() / 1e6, 3),
            "peak_mb": round(mx.get_peak_memory() / 1e6, 2),
            "kept_mb": round(mx.get_cache_memory() / 1e6, 1),
            "resident_mb": round(process_memory() / 1e6, 1),
        }
    print(json.dumps(report | {"mlx": version("mlx"), "mlx-lm": version("mlx-lm")}, indent=1))


if __name__ == "__main__":
    main()
