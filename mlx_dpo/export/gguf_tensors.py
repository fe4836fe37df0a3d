"""The tensors of a GGUF file, made from those in the Hub's layout as llama.cpp's own converter does."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from .gguf_fields import head_size, scaling_type, text_model, unsupported

_WHOLE = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
_IN_BLOCK = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mamba.in_proj": "ssm_in",
    "mamba.out_proj": "ssm_out",
    "mamba.conv1d": "ssm_conv1d",
    "mamba.norm": "ssm_norm",
    "block_sparse_moe.output_linear": "ffn_down_exps",
    "block_sparse_moe.router.layer": "ffn_gate_inp",
}
_GEMMA = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
"""Gemma has four norms in a block, one of them under a name that others use for another norm."""
_VECTORS = {"mamba.A_log": "ssm_a", "mamba.D": "ssm_d", "mamba.dt_bias": "ssm_dt.bias"}
_HALVES = {
    "shared_mlp.input_linear": ("ffn_gate", "ffn_up"),
    "shared_mlp.output_linear": ("ffn_down",),
    "block_sparse_moe.input_linear": ("ffn_gate_exps", "ffn_up_exps"),
}
_TURNED = ("llama", "granite", "granitehybrid")
"""Architectures whose query and key rows llama.cpp wants in the order of its rope."""
_FLOAT32 = re.compile(r"norm|ssm_conv1d|ssm_a$|ssm_d$|ssm_dt|ffn_gate_inp|rope_freqs")
"""llama.cpp aborts if one of these is not float32."""
_BLOCK = re.compile(r"model\.layers\.(\d+)\.(.+)")


class GgufTensor(NamedTuple):
    """`shape`: row-major; `float32`: kept in float32 whatever the file's type; `make`: its float32 values."""

    name: str
    shape: tuple[int, ...]
    float32: bool
    make: Callable[[], np.ndarray]


def gguf_tensors(
    kind: str, model: nn.Module, tensors: Mapping[str, mx.array], where: Path
) -> list[GgufTensor]:
    """What the file holds, in order; values are made when they are written.

    Args:
        kind: llama.cpp's architecture.
        tensors: in the Hub's layout. Those that do not read text are left out.
        where: the base's folder, for messages.

    Raises:
        DpoError: a tensor has no place in a GGUF file.
    """
    args = text_model(model).args
    found = []
    scaling = getattr(args, "rope_scaling", None) or {}
    if scaling_type(scaling) == "llama3":
        factors = rope_factors(scaling, args.rope_theta, head_size(args))
        found.append(GgufTensor("rope_freqs.weight", factors.shape, True, lambda: factors))
    for name in tensors:
        own = name.removeprefix("language_model.")
        if own == name and model is not text_model(model):
            continue  # the part that reads images
        found += made_of(kind, args, own, lambda name=name: tensors[name], where)
    return found


def made_of(
    kind: str, args: Any, name: str, get: Callable[[], mx.array], where: Path
) -> Iterator[GgufTensor]:
    """The GGUF tensors of one tensor with the name `name` in a model, or of rows that belong to it.

    Raises:
        DpoError: it has no place in a GGUF file.
    """
    stem, _, end = name.rpartition(".")
    if stem in _WHOLE:
        yield _tensor(f"{_WHOLE[stem]}.{end}", get, _change(kind, args, stem))
        return
    block = _BLOCK.fullmatch(name)
    if block is None:
        raise unsupported(f"the tensor {name} has no place in a GGUF file", where)
    prefix, own = f"blk.{block[1]}.", block[2]
    stem, _, end = own.rpartition(".")
    names = _IN_BLOCK | (_GEMMA if kind == "gemma3" else {})
    if own in _VECTORS:
        yield _tensor(prefix + _VECTORS[own], get, _vector(own))
    elif stem in names:
        yield _tensor(f"{prefix}{names[stem]}.{end}", get, _change(kind, args, stem))
    elif stem in _HALVES:
        parts = [*_HALVES[stem]]
        if getattr(args, "use_moe", False) and stem.startswith("shared_mlp"):
            parts = [f"{part}_shexp" for part in parts]
        for number, part in enumerate(parts):
            yield _tensor(f"{prefix}{part}.{end}", get, _part(number, len(parts)))
    else:
        raise unsupported(f"the tensor {name} has no place in a GGUF file", where)


def _tensor(name: str, get: Callable[[], mx.array], change: Callable[[mx.array], mx.array]) -> GgufTensor:
    def value() -> mx.array:
        return change(get())

    shape = value().shape  # lazy: nothing is computed
    keep = len(shape) < 2 or bool(_FLOAT32.search(name))
    # asarray shares MLX's memory; np.array would copy it.
    return GgufTensor(name, tuple(shape), keep, lambda: np.asarray(value().astype(mx.float32)))


def _change(kind: str, args: Any, stem: str) -> Callable[[mx.array], mx.array]:
    if kind in _TURNED and stem.endswith("q_proj"):
        return lambda value: rope_order(value, args.num_attention_heads)
    if kind in _TURNED and stem.endswith("k_proj"):
        return lambda value: rope_order(value, args.num_key_value_heads)
    if kind == "gemma3" and stem.endswith("norm"):
        return lambda value: value.astype(mx.float32) + 1  # Gemma's norms multiply by weight + 1
    if stem.endswith("conv1d"):
        return lambda value: value.squeeze(1) if value.ndim == 3 else value
    if stem == "mamba.norm":
        return lambda value: value.reshape(args.mamba_n_groups, -1)
    return lambda value: value


def _vector(own: str) -> Callable[[mx.array], mx.array]:
    if own == "mamba.A_log":
        return lambda value: -mx.exp(value.astype(mx.float32)).reshape(-1, 1)
    if own == "mamba.D":
        return lambda value: value.reshape(-1, 1)
    return lambda value: value


def _part(number: int, count: int) -> Callable[[mx.array], mx.array]:
    """One of `count` equal parts of the rows."""
    return lambda value: mx.split(value, count, axis=-2)[number]


def rope_order(value: mx.array, heads: int) -> mx.array:
    """Rows of each head, first half and second half interleaved, as llama.cpp's rope reads them.

    One head of 4 rows [0 1 2 3] -> [0 2 1 3].
    """
    shape = value.shape
    return value.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def rope_factors(scaling: Mapping[str, Any], base: float, width: int) -> np.ndarray:
    """Llama 3's divisors of the rope frequencies, float32 (width / 2,).

    Source: Llama 3.1's reference code; long wavelengths are divided by `factor`, short ones stay, those in
    between are blended.
    """
    factor, low = float(scaling["factor"]), float(scaling.get("low_freq_factor", 1))
    high = float(scaling.get("high_freq_factor", 4))
    context = float(scaling.get("original_max_position_embeddings", 8192))
    wavelengths = 2 * math.pi * np.float64(base) ** (np.arange(0, width, 2) / width)
    smooth = np.clip((context / wavelengths - low) / (high - low), 0.0, 1.0)
    return (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)
