"""Products with quantised weights on a CPU, by way of float32: MLX's own reach a tenth of its speed there."""

from functools import cache, reduce
from math import prod

import mlx.core as mx
import mlx.nn as nn

from .completions import planned_device
from .custom import custom_function, is_traced

_FEW = 8
"""Rows below which MLX's own product is faster, for it reads the weights once and as they are."""
_STRETCH = 2**20
"""Weights of a layer that are made float32 at a time: 4 MB. On a CPU about fifteen such are in flight."""


@cache
def speed_up_products() -> None:
    """From now on quantised layers multiply by `product`, in all models of this process."""
    nn.QuantizedLinear.__call__ = _linear
    nn.QuantizedEmbedding.as_linear = _as_linear


def _linear(self: nn.QuantizedLinear, x: mx.array) -> mx.array:
    y = product(self, x)
    return y + self["bias"] if "bias" in self else y


def _as_linear(self: nn.QuantizedEmbedding, x: mx.array) -> mx.array:
    return product(self, x)


def product(layer: nn.Module, x: mx.array) -> mx.array:
    """x (..., in) times the layer's weights (out, in), transposed: (..., out) in x's type.

    On a CPU, where x has several rows, the weights are made float32 for the product, and again for the
    backward pass, which has a gradient in x alone.
    """
    few = prod(x.shape[:-1]) < _FEW
    # A plan leaves out the float32 weights: measured on SmolLM2 they add 5 % to what a step needs.
    if few or is_traced() or layer.mode != "affine" or planned_device() != mx.cpu:
        return _quantised(layer, x)
    size = max(1, _STRETCH // x.shape[-1])
    parts = [slice(start, start + size) for start in range(0, len(layer.weight), size)]
    # Taken now: where a head answers for some words, the layer holds others when the backward pass is built.
    arrays, group_size, bits = (
        [layer[n] for n in ("weight", "scales", "biases")],
        layer.group_size,
        layer.bits,
    )

    def dense(part: slice, after: mx.array) -> mx.array:
        weight, scales, biases = mx.depends([a[part] for a in arrays], [after])
        scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
        return mx.dequantize(weight, scales, biases, group_size=group_size, bits=bits)

    @custom_function
    def multiplied(x):
        given = x.astype(mx.float32)
        found = [(given @ dense(part, x).T).astype(x.dtype) for part in parts]
        return found[0] if len(found) == 1 else mx.concatenate(found, axis=-1)

    @multiplied.vjp
    def multiplied_vjp(primals, cotangents, outputs):
        slopes = cotangents.astype(mx.float32)
        return reduce(mx.add, [slopes[..., part] @ dense(part, cotangents) for part in parts]).astype(x.dtype)

    return multiplied(x)


def _quantised(layer: nn.Module, x: mx.array) -> mx.array:
    return mx.quantized_matmul(
        x,
        layer.weight,
        scales=layer.scales,
        biases=layer.get("biases"),
        transpose=True,
        group_size=layer.group_size,
        bits=layer.bits,
        mode=layer.mode,
    )
