#!/usr/bin/env python
"""What does mlx_lm's limit on Mamba's time steps change in a Granite hybrid? For DECISIONS.md.

    PYTHONPATH=. python studies/time_step_limit.py

mlx_lm holds the time steps between 0.001 and 100; transformers and llama.cpp do not. Blocks of Granite 4.0
H-Micro's width (but for the MLP, which has no part in it) with random weights of deviation 0.02, and the time
steps of Mamba-2 as training begins (from 0.001 to 0.1, evenly in the logarithm), or spread wider. Prints the
share of steps below the limit, and how far apart the predictions with and without it are; beside that, how
far an adapter of a planned size moves them, and how far apart this move is with and without the limit.
"""

import argparse
import json
from contextlib import contextmanager

import mlx_dpo  # noqa: F401  (loads the fast BLAS, so it comes before MLX)

# isort: split
import mlx.core as mx
import numpy as np

from benchmarks.bench_full_size import H_MICRO
from mlx_dpo.export.predictions import log_softmax, without_step_limit
from mlx_dpo.models.adapters import AdapterConfig, attach
from mlx_dpo.upstream import model_classes

VOCABULARY, MLP, LEAST, MOST = 4096, 1024, 1e-3, 0.1
SPREADS = {"as training begins": 0.0, "spread wider": 1.5, "spread much wider": 3.0}
"""Deviation of what is added to the biases, in nats of the step."""


def make_model(blocks, spread, key):
    """The first blocks of H-Micro; the sixth is attention."""
    changed = {"num_hidden_layers": blocks, "layer_types": H_MICRO["layer_types"][:blocks]}
    changed |= {"vocab_size": VOCABULARY, "shared_intermediate_size": MLP, "intermediate_size": MLP}
    config = {**H_MICRO, **changed}
    kind, arguments = model_classes(config)
    model = kind(arguments.from_dict(config))
    for module in model.modules():
        for own, value in module.items():
            if not isinstance(value, mx.array):
                continue
            key, used = mx.random.split(key)
            if own == "dt_bias":
                steps = mx.exp(mx.random.uniform(np.log(LEAST), np.log(MOST), value.shape, key=used))
                key, used = mx.random.split(key)
                steps = steps * mx.exp(spread * mx.random.normal(value.shape, key=used))
                module[own] = steps + mx.log(-mx.expm1(-steps))
            elif own == "A_log":
                module[own] = mx.log(mx.random.uniform(1, 16, value.shape, key=used))
            elif value.ndim > 1:
                module[own] = 0.02 * mx.random.normal(value.shape, key=used)
    mx.eval(model.parameters())
    return model


def add_adapter(model, share):
    """LoRA whose update has `share` of each weight's norm."""
    attach(model, AdapterConfig(rank=16))
    for module in model.modules():
        if "lora_a" in module:
            update = mx.random.normal(module.lora_b.shape)
            size = module.scale * mx.linalg.norm(module.lora_a @ update)
            module.lora_b = update * (share * mx.linalg.norm(module.linear.weight) / size)
    mx.eval(model.parameters())


def log_probs(model, tokens):
    """Log-probabilities of the last half of the row, float64 (T / 2, V)."""
    return log_softmax(np.array(model(tokens)[0, tokens.shape[1] // 2 :]))


def with_and_without(model, tokens):
    """With the limit, with its lower end alone, and without it."""
    found = [log_probs(model, tokens)]
    layers = [module for module in model.modules() if hasattr(module, "time_step_limit")]
    limit = layers[0].time_step_limit
    for layer in layers:
        layer.time_step_limit = (limit[0], float("inf"))
    found.append(log_probs(model, tokens))
    for layer in layers:
        layer.time_step_limit = limit
    with without_step_limit(model):
        return [*found, log_probs(model, tokens)]


@contextmanager
def watched():
    """Within it, a list gets each computed Mamba layer's share of time steps below the limit."""
    from mlx_lm.models import ssm

    below, theirs = [], ssm.compute_dt

    def own(dt, bias, limit):
        below.append((theirs(dt, bias, (0.0, float("inf"))) < LEAST).mean())
        return theirs(dt, bias, limit)

    ssm.compute_dt = own
    try:
        yield below
    finally:
        ssm.compute_dt = theirs


def divergence(p, q):
    """Mean KL(p || q), nats a token."""
    return float((np.exp(p) * (p - q)).sum(-1).mean())


def case(blocks, spread, length):
    """The figures of one model."""
    mx.random.seed(5)
    model = make_model(blocks, spread, mx.random.key(3))
    tokens = mx.random.randint(0, VOCABULARY, (1, length), key=mx.random.key(4))
    with watched() as below:
        base_limited, base_lower, base_free = with_and_without(model, tokens)
    found = {"blocks": blocks, "spread": spread, "tokens": length, "below": mx.stack(below).mean().item()}
    add_adapter(model, 0.05)
    own_limited, _, own_free = with_and_without(model, tokens)
    move = (own_free - base_free) - (own_limited - base_limited)
    return found | {
        "largest difference": float(np.abs(base_limited - base_free).max()),
        "by the lower end alone": float(np.abs(base_lower - base_free).max()),
        "KL(free || limited)": divergence(base_free, base_limited),
        "KL(adapter || base)": divergence(own_free, base_free),
        "largest difference of the move": float(np.abs(move).max()),
        "largest move": float(np.abs(own_free - base_free).max()),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, nargs="+", default=[4])
    parser.add_argument("--tokens", type=int, nargs="+", default=[512])
    options = parser.parse_args()
    for blocks in options.blocks:
        for length in options.tokens:
            for name, spread in SPREADS.items():
                print(json.dumps({"time steps": name} | case(blocks, spread, length)), flush=True)


if __name__ == "__main__":
    main()
