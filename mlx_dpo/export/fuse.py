"""Fuse an adapter into the weights: a model folder that needs no adapter."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from ..console import progress, say
from ..data.templates import end_of_turn
from ..errors import DpoError
from ..models.adapters import load_adapter, read_adapter_config
from ..models.base_of_adapter import check_base
from ..models.end_of_turn import mlx_lm_stops
from ..models.load import ModelConfig, find_model, load_model, load_tokenizer, weight_bytes
from ..storage.files import check_writable, replace_folder
from ..storage.reading import files_in, is_there
from .end_of_turn_files import list_end

_SPARE_BITS = {mx.bfloat16: 16, mx.float16: 13}
"""Bits of a float32 mantissa that a half-precision dtype lacks."""


def fuse_run(
    model_path: str, adapter: Path | str, output: Path | str, asked: ModelConfig | None = None
) -> Path:
    """Write base weights plus adapter as a model folder in hub layout, in the dtype of the base model.

    A quantised base is written in plain precision: quantising the sum again would erase most of what
    preference training changed. For half precision see `round_to`. The end of turn is added to config files
    that lack it.

    Args:
        asked: the model settings of the run; the fused model gets their chat template.

    Raises:
        DpoError: files do not fit, the adapter belongs to another base, weights are not finite, the output
            exists, or the disk is full.
    """
    from mlx_lm.utils import dequantize_model

    output = Path(output)
    if is_there(output):
        raise DpoError("exists already", where=output, hint="choose another folder with --output")
    kind = read_adapter_config(adapter).type
    base = find_model(model_path)
    others = _bytes(base, "*.json", "*.jinja", "*.model", "*.txt")
    check_writable(output, need_bytes=_bytes(base, "model*.safetensors") + others)
    tokenizer = load_tokenizer(base, asked)
    check_base(adapter, base, tokenizer)
    end_of_turn(tokenizer)  # refuses a tokenizer without one before the slow part
    model, config = load_model(base)
    dtypes = {name: value.dtype for name, value in tree_flatten(model.parameters())}
    load_adapter(model, adapter)
    if kind == "full":
        _round_blocks(model, dtypes)
    else:
        fuse_layers(model)
    if any(hasattr(m, "bits") for m in model.modules()) or "quantization" in config:
        say("the base model is quantised: the fused model is written in plain precision")
        model = dequantize_model(model)
        for key in ("quantization", "quantization_config"):
            config.pop(key, None)
    check_writable(output, need_bytes=weight_bytes(model) + others)
    # The folder appears only when it is complete.
    replace_folder(output, lambda beside: _write(beside, base, model, tokenizer, config))
    return output


def _bytes(folder: Path, *patterns: str) -> int:
    return sum(file.stat().st_size for file in files_in(folder, *patterns))


def _write(folder: Path, base: Path, model: nn.Module, tokenizer: Any, config: dict[str, Any]) -> None:
    from mlx_lm.utils import save

    save(folder, base, model, tokenizer, config, donate_model=False)  # a model card too
    for code in files_in(folder, "*.py"):  # code of the base: we never run it, and nobody should
        code.unlink()
    end = end_of_turn(tokenizer)
    if list_end(folder, end, mlx_lm_stops(base, tokenizer)):
        token = tokenizer.convert_ids_to_tokens(end)
        say(
            f"the config files of the base model do not list the end of turn {token}: it is added to "
            "config.json and generation_config.json of the fused model, so that mlx_lm stops there"
        )


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
