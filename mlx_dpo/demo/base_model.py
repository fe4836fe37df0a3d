"""Train the demo's base model from random weights on plain answers, in a minute or two."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
import numpy as np
from mlx.utils import tree_flatten

from ..console import progress
from ..data.conversation_tokens import completion_tokens, end_of_turn, prompt_tokens
from ..logps import token_logps
from ..models.load import load_model, load_tokenizer
from ..records import Curated

_PEAK, _WARMUP, _BATCH, _BUCKET = 5e-3, 20, 12, 16
_PROMPT_WEIGHT = 0.2
"""Weight of the questions in the loss: they teach a small model the words early."""


def teach(folder: Path, rows: Sequence[Curated], epochs: int, seed: int = 0) -> None:
    """Train all weights of the model in `folder` on prompt and answer, and write them back.

    Next-token cross-entropy, AdamW with a cosine schedule. mlx_lm's trainer always compiles, which takes as
    long as several epochs on a CPU.
    """
    model, _ = load_model(folder)
    sequences = _tokenize(load_tokenizer(folder), rows)
    steps = epochs * -(-len(sequences) // _BATCH)
    ramp = optimizers.linear_schedule(_PEAK / _WARMUP, _PEAK, _WARMUP - 1)
    fall = optimizers.cosine_decay(_PEAK, max(1, steps - _WARMUP), 0.05 * _PEAK)
    optimizer = optimizers.AdamW(
        optimizers.join_schedules([ramp, fall], [_WARMUP]), weight_decay=0.01, bias_correction=True
    )
    gradient = nn.value_and_grad(model, _loss)
    model.train()
    order = np.random.default_rng(seed)
    with progress("teaching the base model", steps, "steps") as advance:
        for _ in range(epochs):
            for batch in _batches(sequences, order):
                loss, grads = gradient(model, *batch)
                grads, _ = optimizers.clip_grad_norm(grads, 1.0)
                optimizer.update(model, grads)
                mx.eval(loss, model.parameters(), optimizer.state)
                advance(1, f"loss {loss.item():.2f}")
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})


def _tokenize(tokenizer: Any, rows: Sequence[Curated]) -> list[tuple[list[int], list[int]]]:
    end = end_of_turn(tokenizer)
    return [
        (prompt_tokens(tokenizer, row.prompt), completion_tokens(tokenizer, row.prompt, row.answer, end))
        for row in rows
    ]


def _batches(sequences: list[tuple[list[int], list[int]]], order: np.random.Generator):
    """One epoch in random order, with rows of similar length together: tokens (B, T) and target weights."""
    lengths = [len(p) + len(c) for p, c in sequences]
    rows = sorted(order.permutation(len(sequences)), key=lambda i: lengths[i] // 8)
    groups = [rows[i : i + _BATCH] for i in range(0, len(rows), _BATCH)]
    order.shuffle(groups)
    for group in groups:
        width = -(-max(lengths[i] for i in group) // _BUCKET) * _BUCKET
        tokens = np.zeros((len(group), width), np.int32)
        weights = np.zeros((len(group), width), np.float32)
        for row, i in enumerate(group):
            prompt, completion = sequences[i]
            tokens[row, : lengths[i]] = prompt + completion
            weights[row, 1 : len(prompt)] = _PROMPT_WEIGHT
            weights[row, len(prompt) : lengths[i]] = 1.0
        yield mx.array(tokens), mx.array(weights)


def _loss(model: nn.Module, tokens: mx.array, weights: mx.array) -> mx.array:
    logps = token_logps(model(tokens[:, :-1]), tokens[:, 1:])
    return -(logps * weights[:, 1:]).sum() / weights[:, 1:].sum()
