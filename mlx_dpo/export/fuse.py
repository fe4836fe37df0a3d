"""Adapter into weights: a model folder that needs no adapter."""

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map_with_path, tree_unflatten

from ..console import say
from ..errors import DpoError
from ..files import check_writable, replace_folder
from ..models.adapters import load_adapter, read_adapter_config
from ..models.load import find_model, load_model, load_tokenizer, weight_bytes


def fuse_run(model_path: str, adapter: Path | str, output: Path | str) -> Path:
    """Write base weights plus adapter as a model folder in hub layout, in the base's own dtype.

    A quantised base is written in plain precision: rounding the sum to few bits again would erase most of
    what preference training changed.

    Raises:
        DpoError: files that do not fit, an output that exists, or no room for it.
    """
    from mlx_lm.utils import dequantize_model, save

    output = Path(output)
    if output.exists():
        raise DpoError("exists already", where=output, hint="choose another folder with --output")
    read_adapter_config(adapter)
    base = find_model(model_path)
    check_writable(output, need_bytes=sum(f.stat().st_size for f in base.glob("model*.safetensors")))
    tokenizer = load_tokenizer(base)
    model, config = load_model(base)
    quantised = any(hasattr(m, "bits") for m in model.modules())
    # Not of packed weights, which are whole numbers: cast to those, a fused model would be all zeros.
    weights = tree_flatten(model.parameters())
    dtypes = {name: v.dtype for name, v in weights if mx.issubdtype(v.dtype, mx.floating)}
    load_adapter(model, adapter)
    fuse_layers(model)
    if quantised:
        say("the base is quantised: the fused model is written in plain precision, so that nothing is lost")
        model = dequantize_model(model)
        for key in ("quantization", "quantization_config"):
            config.pop(key, None)
    # The sums are float32 where the adapter is; the base's dtype is what its users expect to load.
    model.update(
        tree_map_with_path(
            lambda name, value: value.astype(dtypes.get(name, value.dtype)), model.parameters()
        )
    )
    check_writable(output, need_bytes=weight_bytes(model))
    # mlx_lm writes a model card beside the weights; the folder appears only when all of it is there.
    replace_folder(output, lambda beside: save(beside, base, model, tokenizer, config, donate_model=False))
    return output


def fuse_layers(model: nn.Module) -> None:
    """Replace every adapted layer by a plain one with the sum of both weights."""
    fused = [(name, m.fuse(dequantize=True)) for name, m in model.named_modules() if "lora_a" in m]
    model.update_modules(tree_unflatten(fused))
