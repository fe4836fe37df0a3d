"""Products with quantised weights on a CPU, in float32: MLX's own products have a tenth of that speed."""

from collections.abc import Sequence
from functools import cache, reduce
from math import prod

import mlx.core as mx
import mlx.nn as nn

from ..upstream import replace_quantised_products
from .completion_logps import planned_device
from .custom_gradients import custom_function

_FEW = 8
"""With fewer rows MLX's own product is faster, because it reads the weights once and as they are."""
_STRETCH = 2**20
"""Weights of a layer converted to float32 at a time: 4 MB. On a CPU about fifteen pieces are in memory."""


@cache
def speed_up_products() -> None:
    """From now on quantised layers multiply by `product`, in all models of this process."""
    replace_quantised_products(_linear, _as_linear)


def _linear(self: nn.QuantizedLinear, x: mx.array) -> mx.array:
    y = product(self, x)
    return y + self["bias"] if "bias" in self else y


def _as_linear(self: nn.QuantizedEmbedding, x: mx.array) -> mx.array:
    return product(self, x)


def product(layer: nn.Module, x: mx.array) -> mx.array:
    """x (..., in) times the layer's weights (out, in), transposed: (..., out) in x's type.

    On a CPU, if x has several rows, the weights are converted to float32 for the product, and again for the
    backward pass, which gives a gradient for x only.
    """
    few = prod(x.shape[:-1]) < _FEW
    if few or layer.mode != "affine" or planned_device() != mx.cpu:
        return _quantised(layer, x)
    multiplied = _by_way_of_float32(layer.group_size, layer.bits, max(1, _STRETCH // x.shape[-1]))
    return multiplied(x, layer.weight, layer.scales, layer.biases)


@cache
def _by_way_of_float32(group_size: int, bits: int, size: int) -> custom_function:
    """The product of x with the arrays of a layer, `size` rows of its weights at a time."""
    # The closure has only numbers, so that a plan traces all calls of the same shapes at once.

    @custom_function
    def multiplied(x, *arrays):
        given = x.astype(mx.float32)
        found = [
            (given @ _dense(arrays, start, size, group_size, bits, after=x).T).astype(x.dtype)
            for start in range(0, len(arrays[0]), size)
        ]
        return found[0] if len(found) == 1 else mx.concatenate(found, axis=-1)

    @multiplied.vjp
    def multiplied_vjp(primals, cotangents, outputs):
        x, *arrays = primals
        slopes = cotangents.astype(mx.float32)
        own = [
            slopes[..., start : start + size] @ _dense(arrays, start, size, group_size, bits, cotangents)
            for start in range(0, len(arrays[0]), size)
        ]
        return reduce(mx.add, own).astype(x.dtype), *map(mx.zeros_like, arrays)

    return multiplied


def _dense(
    arrays: Sequence[mx.array], start: int, size: int, group_size: int, bits: int, after: mx.array
) -> mx.array:
    """Some rows of a layer's weights in float32, computed after `after`."""
    weight, *others = mx.depends([a[start : start + size] for a in arrays], [after])
    scales, biases = (a.astype(mx.float32) for a in others)
    return mx.dequantize(weight, scales, biases, group_size=group_size, bits=bits)


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
