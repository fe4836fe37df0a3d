"""How a layer's weights are stored: on a grid of a few bits, or unquantised."""

from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

_GROUPS = (64, 32, 128)


class Grid(NamedTuple):
    """The quantisation of one layer, in mlx_lm's words."""

    group_size: int
    bits: int
    mode: str = "affine"


Grids = Mapping[str, Grid]
"""The quantised layers by path; all other layers are unquantised."""

Codes = tuple[mx.array, ...]
"""The packed codes, scales and biases of a layer; formats with scales of 8 bits have no biases."""


def grid_of(layer: nn.Module) -> Grid | None:
    """The layer's quantisation; None if it has none."""
    if not (hasattr(layer, "bits") and "scales" in layer):
        return None
    return Grid(layer.group_size, layer.bits, getattr(layer, "mode", "affine"))


def grids_of(model: nn.Module) -> dict[str, Grid]:
    """The quantised layers of a model."""
    return {name: grid for name, layer in model.named_modules() if (grid := grid_of(layer))}


def usual_grid(layer: nn.Module, bits: int) -> Grid | None:
    """The grid of this many bits for an unquantised layer; None if its rows cannot be cut into groups."""
    width = layer.weight.shape[-1] if hasattr(layer, "to_quantized") else 1
    return next((Grid(size, bits) for size in _GROUPS if width % size == 0), None)


def with_bits(grid: Grid, bits: int) -> Grid:
    """The grid of another number of bits, as close to `grid` as there is one."""
    if grid.bits == bits:
        return grid
    return Grid(grid.group_size if grid.group_size in _GROUPS else 32, bits)


def codes(weight: mx.array, grid: Grid, dtype: mx.Dtype) -> Codes:
    """A float32 weight (..., out, in) on a grid whose scales and biases have this dtype.

    MLX chooses codes for float32 scales. Scales in half precision are up to 0.2 % away from those, so that
    large codes would be off by more than half a step of 8 bits. Here codes are chosen for the rounded scales.
    """
    packed, *others = mx.quantize(weight, group_size=grid.group_size, bits=grid.bits, mode=grid.mode)
    if grid.mode != "affine" or dtype == mx.float32:
        return packed, *others
    scales, biases = (a.astype(dtype) for a in others)
    steps, starts = (a.astype(mx.float32)[..., None] for a in (scales, biases))
    groups = weight.reshape(*weight.shape[:-1], -1, grid.group_size)
    chosen = (groups - starts) / mx.where(steps == 0, 1.0, steps)
    chosen = mx.clip(mx.round(chosen), 0, 2**grid.bits - 1).astype(mx.uint8)
    return _packed(chosen.reshape(weight.shape), grid.bits), scales, biases


def _packed(numbers: mx.array, bits: int) -> mx.array:
    """Numbers (..., n) of so many bits, one after the other with the lowest bit first, as uint32."""
    if bits == 8:
        return mx.view(numbers, mx.uint32)
    spread = (numbers[..., None] >> mx.arange(bits, dtype=mx.uint8)) & 1
    octets = spread.reshape(*numbers.shape[:-1], -1, 8) << mx.arange(8, dtype=mx.uint8)
    return mx.view(octets.sum(axis=-1).astype(mx.uint8), mx.uint32)


def values(stored: Codes, grid: Grid) -> mx.array:
    """The weights that these codes mean, float32."""
    if grid.mode == "affine":
        stored = (stored[0], *(a.astype(mx.float32) for a in stored[1:]))
    dense = mx.dequantize(*stored, group_size=grid.group_size, bits=grid.bits, mode=grid.mode)
    return dense.astype(mx.float32)


def quantise_layer(model: nn.Module, path: str, grid: Grid, dtype: mx.Dtype) -> None:
    """Quantise one float32 layer in place, as mlx_lm's `quantize_model` does, with the codes above."""
    layer = layer_at(model, path)
    stored = codes(layer.weight, grid, dtype)
    put(model, path, layer.to_quantized(**grid._asdict()))
    for name, value in zip(("weight", "scales", "biases"), stored, strict=False):
        layer_at(model, path)[name] = value
    mx.eval(layer_at(model, path).parameters())


def tidied(config: dict[str, Any], grids: Grids) -> dict[str, Any]:
    """The base model's config with exactly these grids, as mlx_lm writes and reads it.

    Only layers with an unusual grid are named; mlx_lm sees in the files which layers are quantised.
    """
    config, old = dict(config), config.get("quantization") or {}
    for key in ("quantization", "quantization_config"):
        config.pop(key, None)
    if not grids:
        return config
    every = list(grids.values())
    usual = {"mode": "affine"} | {k: old[k] for k in Grid._fields if k in old}
    if len(usual) < len(Grid._fields):
        usual = max(sorted(set(every)), key=every.count)._asdict()
    named = {path: grid._asdict() for path, grid in grids.items() if grid._asdict() != usual}
    for path, own in old.items():  # with what mlx_lm may know of a layer beside its grid
        if path in grids and isinstance(own, dict) and own.get("bits") == grids[path].bits:
            named[path] = own
    config["quantization"] = config["quantization_config"] = {**usual, **named}
    return config


def stored_bytes(shape: tuple[int, ...], dtype: mx.Dtype, grid: Grid | None = None) -> int:
    """Bytes of a weight of this unquantised shape."""
    count = prod(shape)
    if grid is None:
        return count * dtype.size
    per_group = 2 * dtype.size if grid.mode == "affine" else 1
    return count * grid.bits // 8 + count // grid.group_size * per_group


def layer_at(model: nn.Module, path: str) -> Any:
    """The module with this path, such as model.layers.0.mlp.up_proj."""
    for part in path.split("."):
        model = model[int(part)] if isinstance(model, list) else model[part]
    return model


def put(model: nn.Module, path: str, layer: nn.Module) -> None:
    """Replace the module with this path."""
    model.update_modules(tree_unflatten([(path, layer)]))
