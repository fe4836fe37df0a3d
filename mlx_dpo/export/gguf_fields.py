"""The fields of a GGUF file that describe a model's shape, as llama.cpp's own converter writes them.

Source: ggml-org/llama.cpp, conversion/ (llama.py, qwen.py, gemma.py, granite.py).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import mlx.nn as nn

from ..errors import DpoError, quoted

ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma3_text": "gemma3",
    "gemma3": "gemma3",
    "granite": "granite",
    "granitemoehybrid": "granitehybrid",
}
"""Model type: llama.cpp's name of the architecture."""

FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7, "bf16": 32}
_LOCAL_BASE, _PATTERN = 10_000.0, 6
"""What llama.cpp takes for every Gemma 3: base of the local rope, and every sixth block global."""
_CONVERT = (
    "export the model with mlx-dpo export hf, then convert that folder with llama.cpp: "
    "python convert_hf_to_gguf.py FOLDER --outfile model.gguf --outtype f16"
)


class Field(NamedTuple):
    """`kind`: uint32, float32, bool, string, or array."""

    key: str
    kind: str
    value: Any


def unsupported(what: str, where: Any) -> DpoError:
    """What to raise for a model that only llama.cpp's own converter may know."""
    return DpoError(what, where=where, hint=_CONVERT, code="no-gguf")


def text_model(model: nn.Module) -> nn.Module:
    """The part that reads text: the model itself, or its language_model."""
    return getattr(model, "language_model", model)


def architecture(model_type: str, model: nn.Module, where: Path) -> str:
    """llama.cpp's name of the architecture.

    A granitemoehybrid whose blocks are all attention is `granite`.

    Raises:
        DpoError: it is none that we can write.
    """
    if model_type not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise unsupported(f"no GGUF for the architecture {quoted(model_type)}, only for {known}", where)
    args = text_model(model).args
    if model_type == "granitemoehybrid" and "mamba" not in args.layer_types:
        if args.use_moe:
            raise unsupported("no GGUF for a Granite mixture of experts without Mamba layers", where)
        return "granite"
    return ARCHITECTURES[model_type]


def model_fields(kind: str, model: nn.Module, where: Path) -> list[Field]:
    """Fields of the model's shape, in llama.cpp's order.

    Args:
        kind: from `architecture`.
        where: the base's folder, for messages.

    Raises:
        DpoError: llama.cpp cannot compute such a model.
    """
    args = text_model(model).args
    check_computable(kind, args, where)
    return [Field(f"{kind}.{name}", *rest) for name, *rest in _fields(kind, args)]


def head_size(args: Any) -> int:
    """Width of an attention head."""
    return getattr(args, "head_dim", None) or args.hidden_size // args.num_attention_heads


def _fields(kind: str, args: Any) -> Iterator[tuple[str, str, Any]]:
    yield "block_count", "uint32", args.num_hidden_layers
    yield "context_length", "uint32", args.max_position_embeddings or 4096
    yield "embedding_length", "uint32", args.hidden_size
    dense = kind == "granitehybrid" and not args.use_moe
    yield "feed_forward_length", "uint32", args.shared_intermediate_size if dense else args.intermediate_size
    yield "vocab_size", "uint32", args.vocab_size
    yield "attention.head_count", "uint32", args.num_attention_heads
    heads = args.num_key_value_heads
    if kind == "granitehybrid":
        yield "attention.head_count_kv", "array", [heads if t == "attention" else 0 for t in args.layer_types]
    else:
        yield "attention.head_count_kv", "uint32", heads
    yield "attention.layer_norm_rms_epsilon", "float32", args.rms_norm_eps
    if kind in ("llama", "qwen3", "gemma3"):
        yield "attention.key_length", "uint32", head_size(args)
        yield "attention.value_length", "uint32", head_size(args)
    yield from _rope(kind, args)
    if kind == "gemma3":
        yield "attention.sliding_window", "uint32", args.sliding_window
    if kind.startswith("granite"):
        yield "attention.scale", "float32", args.attention_multiplier
        yield "embedding_scale", "float32", args.embedding_multiplier
        yield "residual_scale", "float32", args.residual_multiplier
        yield "logit_scale", "float32", args.logits_scaling
    if kind == "granitehybrid":
        yield from _mamba(args)


def _rope(kind: str, args: Any) -> Iterator[tuple[str, str, Any]]:
    yield "rope.dimension_count", "uint32", head_size(args)
    yield "rope.freq_base", "float32", args.rope_theta
    scaling = getattr(args, "rope_scaling", None) or {}
    if scaling_type(scaling) == "linear":
        yield "rope.scaling.type", "string", "linear"
        yield "rope.scaling.factor", "float32", scaling["factor"]
    if kind.startswith("granite") and without_positions(args):
        yield "rope.scaling.finetuned", "bool", False  # llama.cpp's default, true, switches rope on


def _mamba(args: Any) -> Iterator[tuple[str, str, Any]]:
    yield "ssm.conv_kernel", "uint32", args.mamba_d_conv
    yield "ssm.state_size", "uint32", args.mamba_d_state
    yield "ssm.group_count", "uint32", args.mamba_n_groups
    yield "ssm.inner_size", "uint32", args.mamba_n_heads * args.mamba_d_head
    yield "ssm.time_step_rank", "uint32", args.mamba_n_heads
    if args.shared_intermediate_size:
        yield "expert_shared_feed_forward_length", "uint32", args.shared_intermediate_size
    if args.use_moe:
        yield "expert_count", "uint32", args.num_local_experts
        yield "expert_used_count", "uint32", args.num_experts_per_tok


def without_positions(args: Any) -> bool:
    """Whether attention has no rope, as in Granite 4.0 hybrid."""
    return getattr(args, "position_embedding_type", "rope") != "rope"


def scaling_type(scaling: dict[str, Any]) -> str:
    """The kind of rope scaling; "default" if there is none."""
    return scaling.get("type") or scaling.get("rope_type", "default")


def check_computable(kind: str, args: Any, where: Path) -> None:
    """Check that llama.cpp computes this model as MLX does.

    Raises:
        DpoError: names the setting that it does not have.
    """
    scaling = scaling_type(getattr(args, "rope_scaling", None) or {})
    if scaling not in ("default", "linear", "llama3") or (scaling == "llama3" and kind == "gemma3"):
        raise unsupported(f"no GGUF with rope scaling of type {quoted(scaling)}", where)
    if getattr(args, "rope_traditional", False):
        raise unsupported("no GGUF with rope_traditional", where)
    if kind == "llama" and "sliding_attention" in args.layer_types:
        raise unsupported("no GGUF of a Llama with sliding attention", where)
    if kind == "granitehybrid" and args.mamba_n_groups != 1:
        raise unsupported(
            f"mamba_n_groups is {args.mamba_n_groups}: llama.cpp normalises each group, mlx_lm all at once",
            where,
        )
    if kind == "gemma3":
        _check_gemma(args, where)


def _check_gemma(args: Any, where: Path) -> None:
    width = args.hidden_size // args.num_attention_heads if args.num_hidden_layers == 62 else args.head_dim
    fixed = {
        "query_pre_attn_scalar": (args.query_pre_attn_scalar, width),  # the 27B has a rule of its own
        "rope_local_base_freq": (args.rope_local_base_freq, _LOCAL_BASE),
        "sliding_window_pattern": (args.sliding_window_pattern, _PATTERN),
    }
    for name, (own, theirs) in fixed.items():
        if own != theirs:
            raise unsupported(f"{name} is {own}, but llama.cpp computes every Gemma 3 with {theirs}", where)
