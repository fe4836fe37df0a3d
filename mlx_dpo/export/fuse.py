"""Adapter into weights: a model folder that needs no adapter."""

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
"""Bits of a float32's mantissa that a half-precision dtype does not have."""


def fuse_run(
    model_path: str, adapter: Path | str, output: Path | str, asked: ModelConfig | None = None
) -> Path:
    """Write base weights plus adapter as a model folder in hub layout, in the base's own dtype.

    A quantised base is written in plain precision: rounding the sum to few bits again would erase most of
    what preference training changed. For half precision see `round_to`. The config files get the end of turn
    where they lack it.

    Args:
        asked: how the run's model was asked; the fused model gets its chat template.

    Raises:
        DpoError: files that do not fit, another base than the adapter's, weights that are not finite, an
            output that exists, or no room.
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
    end_of_turn(tokenizer)  # one without is refused before the slow part
    model, config = load_model(base)
    dtypes = {name: value.dtype for name, value in tree_flatten(model.parameters())}
    load_adapter(model, adapter)
    if kind == "full":
        _round_blocks(model, dtypes)
    else:
        fuse_layers(model)
    if any(hasattr(m, "bits") for m in model.modules()) or "quantization" in config:
        say("the base is quantised: the fused model is written in plain precision")
        model = dequantize_model(model)
        for key in ("quantization", "quantization_config"):
            config.pop(key, None)
    check_writable(output, need_bytes=weight_bytes(model) + others)
    # The folder appears only when all of it is there.
    replace_folder(output, lambda beside: _write(beside, base, model, tokenizer, config))
    return output


def _bytes(folder: Path, *patterns: str) -> int:
    return sum(file.stat().st_size for file in files_in(folder, *patterns))


def _write(folder: Path, base: Path, model: nn.Module, tokenizer: Any, config: dict[str, Any]) -> None:
    from mlx_lm.utils import save

    save(folder, base, model, tokenizer, config, donate_model=False)  # a model card too
    for code in files_in(folder, "*.py"):  # of the base: nothing of ours runs it, and nobody should
        code.unlink()
    end = end_of_turn(tokenizer)
    if list_end(folder, end, mlx_lm_stops(base, tokenizer)):
        token = tokenizer.convert_ids_to_tokens(end)
        say(
            f"the base's config files do not list {token}, the end of turn: the fused model's config.json "
            "and generation_config.json do, so that mlx_lm stops there"
        )


def fuse_layers(model: nn.Module) -> None:
    """Replace every adapted layer by a plain one with the sum of both weights, one layer at a time.

    Raises:
        DpoError: a sum that is not finite.
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
    layer[inner].set_dtype(mx.float32)  # the sum is formed in float32, also of a dequantised weight
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
    """Bring fully trained blocks, which are float32, back to the base's dtype."""
    for number, (name, value) in enumerate(tree_flatten(model.trainable_parameters())):
        _check_finite(value, name)
        rounded = round_to(value, dtypes[name], mx.random.key(number))
        mx.eval(rounded)
        model.update(tree_unflatten([(name, rounded)]))


def _check_finite(value: mx.array, name: str) -> None:
    if not mx.isfinite(value).all().item():
        raise DpoError(
            "holds numbers that are not finite", where=name, hint="the run diverged; train again, more slowly"
        )


def round_to(value: mx.array, dtype: mx.Dtype, key: mx.array) -> mx.array:
    """Round float32 to bfloat16 or float16, up or down by chance, so that the mean is kept.

    The base's weights stand exactly on the grid of their dtype, and most of a preference update is smaller
    than half a step of it: rounding to nearest would bring them back and erase the update. Here each value
    goes to the grid point above with the probability of its place between the two; one on the grid stays.

    Args:
        value: float32, any shape.
        dtype: what the result has; float32 is handed back as it is.
        key: of the random numbers, so that fusing twice gives the same weights.
    """
    if dtype not in _SPARE_BITS:
        return value.astype(dtype)
    # A float32's spare low bits are its place between two grid points, in every binade, for both signs.
    spare = _SPARE_BITS[dtype]
    noise = mx.random.randint(0, 2**spare, value.shape, dtype=mx.uint32, key=key)
    bits = (mx.view(value, mx.uint32) + noise) >> spare
    return mx.view(bits << spare, mx.float32).astype(dtype)
