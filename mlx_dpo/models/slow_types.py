"""Whether this device computes slowly in the number types of a model."""

from collections.abc import Callable
from copy import copy
from pathlib import Path
from time import perf_counter

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

from ..printed_commands import beside, command_line
from .load import compute_dtype

_TOKENS, _REPEATS = 128, 3
_TIMES, _LEAST = 3.0, 0.01


def is_slow(seconds: float, in_float32: float) -> bool:
    """Whether a layer's product for 128 tokens is slow: three times the float32 time, and at least 10 ms."""
    return seconds >= max(_LEAST, _TIMES * in_float32)


def slow_products(model: nn.Module, path: str) -> str | None:
    """A note for a user if products take far longer than in float32 on this device; else None.

    It measures the largest quantised or half-precision layer of the blocks; the values of the weights do not
    matter.

    Args:
        path: path of the model, for the remedy.
    """
    layers = [m for block in model.layers for m in block.modules() if _kind(m)]
    if not layers:
        return None
    layer = max(layers, key=lambda m: _width(m) * len(m.weight))
    rows, width = len(layer.weight), _width(layer)
    given = mx.zeros((_TOKENS, width), compute_dtype(model))
    other, weight = given.astype(mx.float32), mx.zeros((rows, width))
    bare = _bare(layer)
    seconds = _fastest(lambda: bare(given))
    in_float32 = _fastest(lambda: other @ weight.T)
    if not is_slow(seconds, in_float32):
        return None
    words = ["python", "-m", "mlx_lm", "convert", "--hf-path", path]
    words += ["--dequantize"] if isinstance(layer, nn.QuantizedLinear) else []
    words += ["--dtype", "float32", "--mlx-path", beside(Path(path).name, "float32")]
    return (
        f"slow: this device takes {seconds * 1e3:.0f} ms for one {_kind(layer)} layer ({rows:,} x "
        f"{width:,}) and {_TOKENS} tokens, but {in_float32 * 1e3:.1f} ms in float32. If a float32 copy of "
        f"the model fits into memory, it is faster here: {command_line(words)}"
    )


def _kind(module: nn.Module) -> str:
    if isinstance(module, nn.QuantizedLinear):
        return f"{module.bits}-bit"
    if isinstance(module, nn.Linear) and module.weight.dtype in (mx.float16, mx.bfloat16):
        return str(module.weight.dtype).rpartition(".")[2]
    return ""


def _width(layer: nn.Module) -> int:
    width = layer.weight.shape[1]
    return width * 32 // layer.bits if isinstance(layer, nn.QuantizedLinear) else width


def _bare(layer: nn.Module) -> nn.Module:
    """A layer of the same shapes with weights of 0: a plan has no weights in memory."""
    bare = copy(layer)
    bare.update(tree_map(lambda a: mx.zeros(a.shape, a.dtype), layer.parameters()))
    return bare


def _fastest(product: Callable[[], mx.array]) -> float:
    best = float("inf")
    for _ in range(_REPEATS + 1):  # the first also makes the arrays
        start = perf_counter()
        mx.eval(product())
        best = min(best, perf_counter() - start)
    return best
