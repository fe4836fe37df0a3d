"""Whether a GGUF file behaves like the adapter."""

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from ..data.tokenize import TokenizedPair
from .fused_model import replace_value
from .gguf_file import type_of
from .gguf_tensors import GgufTensor
from .likeness import Likeness, Yardstick
from .prove_llama_cpp import LlamaCpp, llama_cpp

TOKENS = 16
"""Answer tokens of each row that are compared: llama.cpp gives one position at a time, over its server."""
_FLOAT32 = ("norm", "conv1d", "router")
"""Parts of the names of matrices that stay float32 in a GGUF file."""
_HELD = {"f16": mx.float16, "bf16": mx.bfloat16, "q8_0": mx.float16}
"""A type in which MLX holds the values of such a file. Of q8_0 it rounds them once more, by 1/16 of q8_0's
own rounding at most for all but the smallest numbers of a block.
"""


def likeness_in_llama_cpp(file: Path, yardstick: Yardstick) -> Likeness:
    """How like the adapter llama.cpp computes with a file."""
    longest = max(len(row.prompt) + len(row.chosen) for row in yardstick.rows)
    with llama_cpp(file, longest + 64) as server:
        return yardstick.likeness_of(lambda row: _answer_logps(server, row, yardstick.vocabulary))


def _answer_logps(server: LlamaCpp, row: TokenizedPair, vocabulary: int) -> np.ndarray:
    """Log-probabilities at the positions that predict the answer's tokens, float64 (C, V)."""
    tokens = [*row.prompt, *row.chosen]
    first = len(row.prompt)
    return np.stack(
        [server.after(tokens[:end], vocabulary, cached=True) for end in range(first, len(tokens))]
    )


def likeness_in_mlx(model: nn.Module, type: str, yardstick: Yardstick) -> Likeness:
    """How like the adapter MLX computes with the values of a file; the model has these values afterwards."""
    round_weights(model, type)
    return yardstick.likeness(model)


def round_weights(model: nn.Module, type: str) -> None:
    """Give the matrices of a model the values that a GGUF file of this type holds.

    Args:
        type: f32, f16, bf16 or q8_0.
    """
    from gguf import quants

    if type == "f32":
        return
    weights = dict(tree_flatten(model.parameters()))
    for name in list(weights):
        value = weights.pop(name)  # so that no weight stays in memory beside its rounded one
        if value.ndim < 2 or any(part in name for part in _FLOAT32):
            continue
        values = np.array(value.astype(mx.float32))
        kind = type_of(GgufTensor(name, values.shape, False, lambda: None), type)
        held = mx.array(quants.dequantize(quants.quantize(values, kind), kind)).astype(_HELD[type])
        replace_value(model, name, held)


def remedy(type: str, rounded: bool) -> str:
    """What to do where a file of this type is not like the adapter.

    Args:
        rounded: the fused weights themselves are in half precision, so that no type has them exactly.
    """
    if not rounded:
        return "give --type f32" if type in ("f16", "bf16") else "give --type f16 or f32"
    adapter = "use the adapter without fusing: mlx-dpo export gguf --lora"
    return f"give --type f16, or {adapter}" if type in ("bf16", "q8_0") else adapter
