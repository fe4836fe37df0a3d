"""Whether a GGUF file that stores less than float32 still behaves like the adapter."""

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from ..data.tokenize import TokenizedPair
from ..errors import DpoError
from .fuse_report import figure, percent, too_far
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
        type: f16, bf16 or q8_0.
    """
    from gguf import quants

    for name, value in tree_flatten(model.parameters()):
        if value.ndim < 2 or any(part in name for part in _FLOAT32):
            continue
        values = np.array(value.astype(mx.float32))
        kind = type_of(GgufTensor(name, values.shape, False, lambda: None), type)
        held = mx.array(quants.dequantize(quants.quantize(values, kind), kind)).astype(_HELD[type])
        replace_value(model, name, held)


def check_like(likeness: Likeness, most: float, type: str, where: Path) -> str:
    """Check that the file is like the adapter; the figures in a few words.

    Raises:
        DpoError: the KL ratio is above `most`.
    """
    if not likeness.ratio <= most:
        what, code = too_far(likeness, most, "the GGUF file", "file")
        finer = "--type f32" if type in ("f16", "bf16") else "--type f16 or f32"
        raise DpoError(
            f"as {type} {what}; top-1 {percent(likeness.top_1)}",
            where=where,
            hint=f"nothing was exported; give {finer}, or allow it with --max-kl-ratio "
            f"{figure(1.1 * likeness.ratio)}",
            code=code,
        )
    return (
        f"KL ratio {figure(likeness.ratio)}, top-1 {percent(likeness.top_1)} over {likeness.positions:,} "
        "answer tokens"
    )
