"""What each trained layer would keep, and take, at each number of bits: measured before anything is built."""

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..models.adapters import load_adapter
from ..models.load import load_model
from .fused_model import changes, replace_value, round_to
from .grids import (
    Grid,
    Grids,
    codes,
    grid_of,
    grids_of,
    stored_bytes,
    usual_grid,
    values,
    with_bits,
)
from .kept import Kept, kept
from .predictions import computes_exactly

_USUAL_BITS = 4

Bits = int | None
"""None: unquantised."""


class Choice(NamedTuple):
    """One way to store a trained layer."""

    grid: Grid | None
    kept: Kept
    bytes: int


class Layers(NamedTuple):
    """How a model is stored now.

    `sizes`: unquantised shape and dtype of the layers that are or could be quantised. `dense_bytes` and
    `weights` are those of the whole model, unquantised.
    """

    sizes: dict[str, tuple[tuple[int, ...], mx.Dtype]]
    dense_bytes: int
    weights: int

    def bytes(self, grids: Grids) -> int:
        """Bytes of the model with these quantised layers."""
        saved = (
            stored_bytes(*self.sizes[path]) - stored_bytes(*self.sizes[path], grid)
            for path, grid in grids.items()
        )
        return self.dense_bytes - sum(saved)


class Target(NamedTuple):
    """How a base is quantised. `bits`: of most layers, or 4 if it is plain. `grids`: empty if it is plain."""

    bits: int
    grids: Grids


def layers_of(model: nn.Module) -> Layers:
    """Of a model without adapter."""
    sizes, dense, count = {}, 0, 0
    for name, layer in model.named_modules():
        if (grid := grid_of(layer)) or hasattr(layer, "to_quantized"):
            sizes[name] = _size(layer, grid)
    parameters = dict(tree_flatten(model.parameters()))
    for name, value in parameters.items():
        path, _, last = name.rpartition(".")
        if f"{path}.scales" in parameters and last in ("weight", "scales", "biases"):
            if last == "weight":
                shape, dtype = sizes[path]
                dense, count = dense + stored_bytes(shape, dtype), count + prod(shape)
        else:
            dense, count = dense + value.nbytes, count + value.size
    return Layers(sizes, dense, count)


def _size(layer: nn.Module, grid: Grid | None) -> tuple[tuple[int, ...], mx.Dtype]:
    shape = layer.weight.shape
    if grid is None:
        return shape, layer.weight.dtype
    dtype = layer.scales.dtype if mx.issubdtype(layer.scales.dtype, mx.floating) else mx.bfloat16
    return (*shape[:-1], shape[-1] * 32 // grid.bits), dtype


def rounds_sums(base: Path) -> bool:
    """Whether base plus adapter, unquantised, is rounded: weights of the base are in half precision."""
    model, _ = load_model(base, lazy=True)
    stored = [dtype for _, dtype in layers_of(model).sizes.values()]
    return not computes_exactly(model) or any(dtype != mx.float32 for dtype in stored)


def target_of(model: nn.Module) -> Target:
    """What a base model says of how it is quantised; 4 bits if it is not."""
    grids = grids_of(model)
    bits = [grid.bits for grid in grids.values()]
    return Target(max(sorted(set(bits)), key=bits.count) if bits else _USUAL_BITS, grids)


def grids_at(model: nn.Module, target: Target, bits: int) -> dict[str, Grid]:
    """The quantised layers if all had this number of bits, or more where the base has more.

    Args:
        model: without adapter; what mlx_lm says of its layers decides where the base is plain.
    """
    if target.grids:
        usual = target.bits
        return {
            path: grid if bits == usual or usual < bits <= grid.bits else with_bits(grid, bits)
            for path, grid in target.grids.items()
        }
    predicate = getattr(model, "quant_predicate", None) or (lambda path, layer: True)
    found = {}
    for path, layer in model.named_modules():
        if grid := usual_grid(layer, bits):
            answer = predicate(path, layer)
            if answer:
                found[path] = Grid(**{**grid._asdict(), **answer}) if isinstance(answer, dict) else grid
    return found


def survey(
    source: Path, adapter: Path | str, grids: Mapping[int, Grids], every: Sequence[Bits]
) -> dict[str, dict[Bits, Choice]]:
    """Choices for each trained layer, one layer in memory at a time.

    Args:
        grids: the quantised layers by number of bits.
        every: the numbers of bits to try. A layer that is quantised in none has the choice None only.
    """
    model, _ = load_model(source)
    load_adapter(model, adapter)
    found = {}
    for number, change in enumerate(changes(model, source, adapter, "measuring")):
        choices = {}
        for bits in every:
            grid = grids[bits].get(change.path) if bits else None
            if grid:
                stored = values(codes(change.after, grid, change.dtype), grid)
            else:
                stored = round_to(change.after, change.dtype, mx.random.key(number)).astype(mx.float32)
            size = stored_bytes(change.after.shape, change.dtype, grid)
            choices[bits] = Choice(grid, kept(change.before, change.after, stored), size)
        found[change.path] = choices
        replace_value(model, change.name, mx.zeros((0,)))  # the model is not used any more
    return found
