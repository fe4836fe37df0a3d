"""Base weights plus adapter as one model in memory, in plain precision: what every export begins with."""

from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from ..console import progress
from ..data.conversation_tokens import end_of_turn
from ..errors import DpoError
from ..models.adapters import load_adapter, read_adapter_config
from ..models.base_of_adapter import check_base
from ..models.load import ModelConfig, load_model, load_tokenizer

_SPARE_BITS = {mx.bfloat16: 16, mx.float16: 13}
"""Bits of a float32 mantissa that a half-precision dtype lacks."""


class FusedModel(NamedTuple):
    """The model, its tokenizer, and the content of its config.json without quantisation."""

    model: nn.Module
    tokenizer: Any
    config: dict[str, Any]
    was_quantised: bool


def fused_model(base: Path, adapter: Path | str, asked: ModelConfig | None = None) -> FusedModel:
    """Load the base model and add the adapter to its weights, one layer at a time.

    Half precision is rounded by chance, see `round_to`.

    A quantised base becomes a plain one.

    Args:
        asked: the model settings of the run.

    Raises:
        DpoError: the adapter belongs to another base, or weights are not finite.
    """
    from mlx_lm.utils import dequantize_model

    tokenizer = load_tokenizer(base, asked)
    check_base(adapter, base, tokenizer)
    end_of_turn(tokenizer)  # refuses a tokenizer without one before the slow part
    model, config = load_model(base)
    dtypes = {name: value.dtype for name, value in tree_flatten(model.parameters())}
    load_adapter(model, adapter)
    if read_adapter_config(adapter).type == "full":
        _round_blocks(model, dtypes)
    else:
        fuse_layers(model)
    quantised = any(hasattr(m, "bits") for m in model.modules()) or "quantization" in config
    if quantised:
        model = dequantize_model(model)
        config = {k: v for k, v in config.items() if k not in ("quantization", "quantization_config")}
    return FusedModel(model, tokenizer, config, quantised)


def fuse_layers(model: nn.Module) -> None:
    """Replace every adapted layer by a plain one with the sum of both weights, one layer at a time.

    Raises:
        DpoError: a sum is not finite.
    """
    names = [name for name, module in model.named_modules() if "lora_a" in module]
    with progress("fusing", len(names), "layers") as advance:
        for number, name in enumerate(names):
            # Only names are kept, so that a layer's old weights are freed before the next one is summed.
            model.update_modules(tree_unflatten([(name, _fused(_module(model, name), name, number))]))
            advance(1)


def _module(model: nn.Module, path: str) -> Any:
    for part in path.split("."):
        model = model[int(part)] if isinstance(model, list) else model[part]
    return model


def _fused(layer: Any, name: str, number: int) -> nn.Module:
    from mlx_lm.utils import dequantize_model

    inner = "linear" if "linear" in layer else "embedding"
    dtype = layer[inner].get("scales", layer[inner].weight).dtype
    if not mx.issubdtype(dtype, mx.floating):  # formats with scales of 8 bits, such as mxfp4
        dtype = mx.bfloat16
    layer[inner].set_dtype(mx.float32)  # the sum is computed in float32, also for a dequantised weight
    layer = dequantize_model(layer)
    layer[inner].set_dtype(mx.float32)
    fused = layer.fuse()
    _check_finite(fused.weight, name)
    fused.weight = round_to(fused.weight, dtype, mx.random.key(number))
    if "bias" in fused:
        fused.bias = fused.bias.astype(dtype)
    mx.eval(fused.parameters())
    return fused


def _round_blocks(model: nn.Module, dtypes: dict[str, mx.Dtype]) -> None:
    """Convert fully trained blocks, which are float32, back to the dtype of the base model."""
    for number, (name, value) in enumerate(tree_flatten(model.trainable_parameters())):
        _check_finite(value, name)
        rounded = round_to(value, dtypes[name], mx.random.key(number))
        mx.eval(rounded)
        model.update(tree_unflatten([(name, rounded)]))


def _check_finite(value: mx.array, name: str) -> None:
    if not mx.isfinite(value).all().item():
        raise DpoError(
            "contains numbers that are not finite",
            where=name,
            hint="the run diverged; train again with a lower optimizer.learning_rate",
        )


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
