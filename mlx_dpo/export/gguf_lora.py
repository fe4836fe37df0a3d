"""Write an adapter as GGUF-LoRA, which llama.cpp adds to a GGUF file of the base model (--lora)."""

from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..errors import DpoError
from ..models.adapters import WEIGHTS, AdapterConfig, read_adapter_config
from ..models.load import ModelConfig
from ..storage.files import check_writable, replace_folder
from .gguf import GgufContent
from .gguf_fields import Field, architecture, text_model
from .gguf_file import check_installed, write_gguf
from .gguf_tensors import GgufTensor, made_of
from .made_from import write_made_from
from .own_template import write_own_template
from .prove_llama_cpp import check_content
from .start import checked_tokenizer, find_base, named, without_weights

_FUSED = "export the fused model instead: mlx-dpo export gguf without --lora"


def export_gguf_lora(
    model_path: str, adapter: Path | str, output: Path | str, asked: ModelConfig | None = None
) -> Path:
    """Write a LoRA adapter as a folder with one GGUF file in float32; returns the file.

    A chat template of the run is beside it, because llama.cpp takes that of the base's file otherwise.

    llama.cpp adds it to any GGUF file of the base model that its own converter, or export gguf, has written.

    Raises:
        DpoError: the adapter is not LoRA, has layers that llama.cpp cannot adapt, or belongs to another base;
            or the output exists.
    """
    output = Path(output)
    check_installed()
    base = find_base(model_path, adapter, output, weights=False)
    tokenizer = checked_tokenizer(base, adapter, asked)
    model_type, model = without_weights(base)
    weights = mx.load(str(Path(adapter) / WEIGHTS))
    content = lora_content(model_type, model, read_adapter_config(adapter), weights, base)
    check_writable(output, need_bytes=sum(4 * prod(tensor.shape) for tensor in content.tensors))
    name = f"{output.name}-lora.gguf"

    def write(folder: Path) -> None:
        write_gguf(folder / name, content.architecture, content.fields, content.tensors, content.type)
        with named(folder, output):
            check_content(folder / name, content)
        write_own_template(folder, tokenizer, asked)
        write_made_from(folder, output, "gguf-lora", adapter)

    replace_folder(output, write)
    return output / name


def lora_content(
    model_type: str, model: nn.Module, config: AdapterConfig, weights: Mapping[str, mx.array], where: Path
) -> GgufContent:
    """What the GGUF file of an adapter holds.

    llama.cpp multiplies by alpha / rank, so alpha = scale * rank.

    Args:
        where: the base's folder, for messages.

    Raises:
        DpoError: llama.cpp has no such adapter.
    """
    if config.type != "lora":
        raise DpoError(
            f"llama.cpp has no adapters of type {config.type}", where="--lora", hint=_FUSED, code="no-gguf"
        )
    kind = architecture(model_type, model, where)
    fields = [
        Field("general.type", "string", "adapter"),
        Field("adapter.type", "string", "lora"),
        Field("adapter.lora.alpha", "float32", config.scale * config.rank),
    ]
    names = sorted(name.removesuffix(".lora_a") for name in weights if name.endswith(".lora_a"))
    tensors = [t for name in names for t in _pair(kind, model, name, weights, where)]
    return GgufContent(kind, fields, tensors, "f32")


def _pair(
    kind: str, model: nn.Module, name: str, weights: Mapping[str, mx.array], where: Path
) -> Iterator[GgufTensor]:
    """A (rank, inputs) and B (outputs, rank) of a layer; B has the layer's rows in llama.cpp's order.

    A layer that is two in llama.cpp gives two pairs with the same A.
    """
    a, b = weights[f"{name}.lora_a"], weights[f"{name}.lora_b"]
    if a.ndim != 2 or "embed_tokens" in name:
        what = "experts" if a.ndim != 2 else "embeddings"
        raise DpoError(
            f"llama.cpp has no adapters on {what}: {name}", where="--lora", hint=_FUSED, code="no-gguf"
        )
    own = name.removeprefix("language_model.")
    for rows in made_of(kind, text_model(model).args, f"{own}.weight", lambda: b.T, where):
        columns = tuple(reversed(a.shape))
        yield GgufTensor(f"{rows.name}.lora_a", columns, True, lambda: np.array(a.T.astype(mx.float32)))
        yield rows._replace(name=f"{rows.name}.lora_b", float32=True)
