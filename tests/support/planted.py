"""Runs with an adapter of a planned size, without training."""

import mlx.core as mx
import numpy as np

from mlx_dpo.data.tokenize import TokenizedPair
from mlx_dpo.export.grids import grid_of, values
from mlx_dpo.models.adapters import AdapterConfig, attach, save_adapter_config, save_adapter_weights
from mlx_dpo.models.load import load_model


def planted(base, run, share, kind="lora"):
    """A run folder whose adapter changes every linear layer by this share of its weights' norm."""
    model, _ = load_model(base)
    config = AdapterConfig(type=kind, rank=8)
    mx.random.seed(7)  # A is drawn from the stream
    attach(model, config)
    key = mx.random.key(7)
    for module in model.modules():
        if "lora_a" in module:
            key, own = mx.random.split(key)
            direction = mx.random.normal(module.lora_b.shape, key=own)
            size = module.scale * mx.linalg.norm(module.lora_a @ direction)
            module.lora_b = direction * (share * mx.linalg.norm(_dense(module.linear)) / size)
    run.mkdir()
    save_adapter_config(model, config, str(base), run)
    save_adapter_weights(model, run)
    return run


def _dense(layer):
    grid = grid_of(layer)
    return (
        values((layer.weight, layer.scales, layer.biases), grid) if grid else layer.weight.astype(mx.float32)
    )


def random_rows(count=4, prompt=8, answer=16, vocabulary=400):
    """Rows of random tokens."""
    draw = np.random.default_rng(0)
    numbers = [draw.integers(10, vocabulary, prompt + answer).astype(np.int32) for _ in range(count)]
    return [TokenizedPair(n[:prompt], n[prompt:], n[prompt:], f"rows:{i}") for i, n in enumerate(numbers)]
