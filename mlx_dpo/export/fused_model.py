"""Base weights plus adapter as one model in memory: what every export begins with."""

from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from ..console import progress
from ..models.adapters import load_adapter, read_adapter_config
from ..models.load import ModelConfig, load_model
from .finite import check_finite
from .grids import Grids, grids_of, layer_at, put, quantise_layer, tidied
from .start import checked_tokenizer

_SPARE_BITS = {mx.bfloat16: 16, mx.float16: 13}
"""Bits of a float32 mantissa that a half-precision dtype lacks."""


class FusedModel(NamedTuple):
    """The model, its tokenizer, and the content of its config.json."""

    model: nn.Module
    tokenizer: Any
    config: dict[str, Any]
    was_quantised: bool


class Change(NamedTuple):
    """A trained parameter, float32, before and after training, and its dtype in the base model."""

    name: str
    before: mx.array
    after: mx.array
    dtype: mx.Dtype

    @property
    def path(self) -> str:
        """Of the layer whose weight it is; of any other parameter, its name."""
        return self.name.removesuffix(".weight")


def fused_model(base: Path, adapter: Path | str, asked: ModelConfig | None = None) -> FusedModel:
    """Load the base model and add the adapter to its weights, in plain precision.

    A quantised base becomes a plain one.

    Args:
        asked: the model settings of the run.

    Raises:
        DpoError: the adapter belongs to another base, or weights are not finite.
    """
    tokenizer = checked_tokenizer(base, adapter, asked)
    model, config, was_quantised = fused_weights(base, adapter)
    return FusedModel(model, tokenizer, config, was_quantised)


def fused_weights(
    base: Path, adapter: Path | str, grids: Grids = MappingProxyType({})
) -> tuple[nn.Module, dict[str, Any], bool]:
    """Base plus adapter, one layer at a time; the config; whether the base was quantised.

    Weights that become quantised are rounded once, from float32. Others have the base's dtype; half precision
    is rounded by chance, see `round_to`.

    Args:
        grids: the layers to quantise. A quantised layer that training did not change keeps its codes.

    Raises:
        DpoError: the adapter does not fit, or weights are not finite.
    """
    model, config = load_model(base)
    was_quantised = bool(grids_of(model)) or "quantization" in config
    load_adapter(model, adapter)
    for number, change in enumerate(changes(model, base, adapter)):
        if grid := grids.get(change.path):
            quantise_layer(model, change.path, grid, change.dtype)
        else:
            replace_value(model, change.name, round_to(change.after, change.dtype, mx.random.key(number)))
        del change  # its float32 arrays, before the next layer is summed
    _store_others(model, grids)
    return model, tidied(config, grids) if was_quantised or grids else config, was_quantised


def changes(model: nn.Module, base: Path, adapter: Path | str, label: str = "fusing") -> Iterator[Change]:
    """Each trained parameter of a model with this adapter; the caller may replace it before the next one.

    Adapted layers become plain float32 layers with the sum, one at a time.

    Raises:
        DpoError: a sum is not finite.
    """
    if read_adapter_config(adapter).type == "full":
        yield from _trained_blocks(model, base)
        return
    names = [name for name, module in model.named_modules() if "lora_a" in module]
    with progress(label, len(names), "layers") as advance:
        for name in names:
            # Only names are kept, so that a layer's old weights are freed before the next one is summed.
            yield _summed(model, name)
            advance(1)


def _summed(model: nn.Module, name: str) -> Change:
    """Replace an adapted layer by a plain float32 one with the sum of both weights."""
    from mlx_lm.utils import dequantize_model

    layer = layer_at(model, name)
    inner = "linear" if "linear" in layer else "embedding"
    dtype = layer[inner].get("scales", layer[inner].weight).dtype
    if not mx.issubdtype(dtype, mx.floating):  # formats with scales of 8 bits, such as mxfp4
        dtype = mx.bfloat16
    layer[inner].set_dtype(mx.float32)  # the sum is computed in float32, also for a dequantised weight
    layer = dequantize_model(layer)
    layer[inner].set_dtype(mx.float32)
    fused, before = layer.fuse(), layer[inner].weight
    check_finite(fused.weight, name)
    if "bias" in fused:
        fused.bias = fused.bias.astype(dtype)
    put(model, name, fused)
    return Change(f"{name}.weight", before, fused.weight, dtype)


def _trained_blocks(model: nn.Module, base: Path) -> Iterator[Change]:
    """The parameters of fully trained blocks, which are float32."""
    # Values of the base are read from its files when they are used, so that no second model is in memory.
    before = dict(tree_flatten(load_model(base, lazy=True)[0].parameters()))
    for name, value in tree_flatten(model.trainable_parameters()):
        check_finite(value, name)
        own = before.pop(name)
        yield Change(name, own.astype(mx.float32), value, own.dtype)


def replace_value(model: nn.Module, name: str, value: mx.array) -> None:
    """Replace one parameter, and free what it was."""
    mx.eval(value)
    model.update(tree_unflatten([(name, value)]))


def _store_others(model: nn.Module, grids: Grids) -> None:
    """Quantise or dequantise the layers that training did not change, one at a time."""
    from mlx_lm.utils import dequantize_model

    for name, grid in grids_of(model).items():
        if name not in grids:
            holder = nn.Module()
            holder.layer = layer_at(model, name)
            put(model, name, dequantize_model(holder).layer)
            mx.eval(layer_at(model, name).parameters())
        elif grids[name] != grid:
            raise ValueError(f"{name} is on the grid {grid}, not on {grids[name]}")
    there = grids_of(model)
    for name, grid in grids.items():
        if name not in there:
            layer = layer_at(model, name)
            dtype = layer.weight.dtype
            layer.weight = layer.weight.astype(mx.float32)
            quantise_layer(model, name, grid, dtype)


def round_to(value: mx.array, dtype: mx.Dtype, key: mx.array) -> mx.array:
    """Round float32 to bfloat16 or float16, up or down at random, so that the mean is kept.

    The weights of the base model are grid points of their dtype, and most preference updates are smaller than
    half a grid step: rounding to nearest would undo them. Here the probability of rounding up is the value's
    relative place between its two grid points; a value on the grid stays.

    Args:
        value: float32, any shape.
        dtype: dtype of the result; float32 is returned as it is.
        key: key of the random numbers, so that fusing twice gives the same weights.
    """
    if dtype not in _SPARE_BITS:
        return value.astype(dtype)
    # The spare low bits of a float32 are its place between two grid points, for all exponents and signs.
    spare = _SPARE_BITS[dtype]
    noise = mx.random.randint(0, 2**spare, value.shape, dtype=mx.uint32, key=key)
    bits = (mx.view(value, mx.uint32) + noise) >> spare
    return mx.view(bits << spare, mx.float32).astype(dtype)
