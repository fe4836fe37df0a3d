"""Tiny models of the families that can be exported, in the Hub's own layout, each with a random adapter.

The names and axes on the Hub are written down here by hand, so that they are not those of the code under
test.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from ..models.adapters import (
    AdapterConfig,
    attach,
    save_adapter_config,
    save_adapter_weights,
    trainable,
)
from ..models.base_of_adapter import KEY
from ..models.load import load_model
from ..upstream import model_classes
from .tiny_models import CHATML, GEMMA, GRANITE, GRANITE_HYBRID, LLAMA3, ChatFormat, write_tokenizer

VOCABULARY = 512
_WORDS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
_REST = "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
LLAMA3_SPLIT = f"{_WORDS}\\p{{N}}{{1,3}}{_REST}"
QWEN_SPLIT = f"{_WORDS}\\p{{N}}{_REST}"

_COMMON = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 512,
    "torch_dtype": "float32",
}
_LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "rope_theta": 10000.0}
_SCALES = {
    "embedding_multiplier": 12.0,
    "attention_multiplier": 0.0625,
    "residual_multiplier": 0.5,
    "logits_scaling": 2.0,
}
_HYBRID = {
    **GRANITE_HYBRID,
    **_SCALES,
    "shared_intermediate_size": 96,
    "layer_types": ["mamba", "attention", "mamba"],
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 16,
}
CONFIGS: dict[str, tuple[dict[str, Any], ChatFormat, str]] = {
    "llama": ({**_LLAMA, "tie_word_embeddings": False}, LLAMA3, LLAMA3_SPLIT),
    "llama31": (
        {
            **_LLAMA,
            "tie_word_embeddings": True,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
        LLAMA3,
        LLAMA3_SPLIT,
    ),
    "qwen2": (
        {
            "model_type": "qwen2",
            "architectures": ["Qwen2ForCausalLM"],
            "rope_theta": 1e6,
            "tie_word_embeddings": False,
        },
        CHATML,
        QWEN_SPLIT,
    ),
    "qwen3": (
        {
            "model_type": "qwen3",
            "architectures": ["Qwen3ForCausalLM"],
            "head_dim": 32,
            "rope_theta": 1e6,
            "tie_word_embeddings": True,
        },
        CHATML,
        QWEN_SPLIT,
    ),
    "gemma2": (
        {
            "model_type": "gemma2",
            "architectures": ["Gemma2ForCausalLM"],
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
            "sliding_window": 512,  # longer than any row: mlx_lm's Gemma 2 has no window
            "hidden_activation": "gelu_pytorch_tanh",
            "rope_theta": 1e4,
            "tie_word_embeddings": True,
        },
        GEMMA,
        LLAMA3_SPLIT,
    ),
    "gemma3": (
        {
            "model_type": "gemma3_text",
            "architectures": ["Gemma3ForCausalLM"],
            "num_hidden_layers": 7,
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": 16,
            "sliding_window_pattern": 6,
            "layer_types": [*["sliding_attention"] * 5, "full_attention", "sliding_attention"],
            "rope_theta": 1e6,
            "rope_local_base_freq": 1e4,
            "hidden_activation": "gelu_pytorch_tanh",
            "tie_word_embeddings": True,
        },
        GEMMA,
        LLAMA3_SPLIT,
    ),
    "granite": (
        {
            **_SCALES,
            "model_type": "granite",
            "architectures": ["GraniteForCausalLM"],
            "rope_theta": 1e4,
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": True,
        },
        GRANITE,
        LLAMA3_SPLIT,
    ),
    "hybrid": (_HYBRID, GRANITE, LLAMA3_SPLIT),
    "hybrid-steps": (_HYBRID, GRANITE, LLAMA3_SPLIT),  # time steps below mlx_lm's limit
    "hybrid-moe": (
        {**_HYBRID, "num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 32},
        GRANITE,
        LLAMA3_SPLIT,
    ),
}
"""Family: its config besides _COMMON, its chat format, the pattern that splits text before merging."""
WITHOUT_GGUF = ("gemma2",)
"""Families that we do not write as GGUF."""


def make_hub_model(folder: Path, family: str, texts: list[str]) -> Path:
    """Write the model as its authors would publish it: float32 weights from a fixed seed."""
    own, chat, split = CONFIGS[family]
    folder.mkdir(parents=True)
    size = write_tokenizer(folder, chat, texts, VOCABULARY)
    _split_by(folder / "tokenizer.json", split)
    config = {**_COMMON, "vocab_size": size, **own, "eos_token_id": chat.special.index(chat.end)}
    config["pad_token_id"] = 0
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    kind, arguments = model_classes(config)
    names = dict(tree_flatten(kind(arguments.from_dict(config)).parameters()))
    if config["tie_word_embeddings"]:
        names.pop("lm_head.weight", None)
    rng = np.random.default_rng(7)
    weights = {name: _drawn(name, value.shape, rng) for name, value in sorted(names.items())}
    if family == "hybrid-steps":
        weights = {n: w - 6 if n.endswith("dt_bias") else w for n, w in weights.items()}
    hub = {name: mx.array(value) for name, value in as_on_the_hub(config, weights).items()}
    mx.save_safetensors(str(folder / "model.safetensors"), hub, metadata={"format": "pt"})
    return folder


def _drawn(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal(shape).astype(np.float32)
    if name.endswith("dt_bias"):
        return rng.uniform(-4, -1, shape).astype(np.float32)
    if name.endswith("A_log"):
        return np.log(rng.uniform(1, 8, shape)).astype(np.float32)
    if "norm" in name or name.endswith(".D"):
        return 1 + 0.1 * noise
    if len(shape) < 2:
        return 0.1 * noise
    inputs = shape[1] if "conv1d" in name else shape[-1]
    return noise * np.float32(0.05 if "embed_tokens" in name else inputs**-0.5)


def as_on_the_hub(config: dict[str, Any], weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """mlx_lm's weights with the names and axes that Granite's published models have."""
    if config["model_type"] != "granitemoehybrid":
        return weights
    hub = dict(weights)
    for number in range(config["num_hidden_layers"]):
        layer = f"model.layers.{number}."
        if layer + "mamba.conv1d.weight" in hub:
            hub[layer + "mamba.conv1d.weight"] = np.ascontiguousarray(
                hub[layer + "mamba.conv1d.weight"].transpose(0, 2, 1)
            )
        if config["num_local_experts"]:
            ours, theirs, axis = layer + "block_sparse_moe.switch_mlp.", layer + "block_sparse_moe.", 1
        else:
            ours, theirs, axis = layer + "mlp.", layer + "shared_mlp.", 0
        gate, up, down = (hub.pop(f"{ours}{n}_proj.weight") for n in ("gate", "up", "down"))
        hub[theirs + "input_linear.weight"] = np.concatenate([gate, up], axis)
        hub[theirs + "output_linear.weight"] = down
    return hub


def _split_by(file: Path, pattern: str) -> None:
    """Give a byte-level tokenizer the split that the family's tokenizers have."""
    content = json.loads(file.read_text())
    content["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        ],
    }
    file.write_text(json.dumps(content))


def make_adapter(
    base: Path,
    folder: Path,
    size: float = 0.05,
    *,
    kind: str = "lora",
    layers: int = -1,
    sums: Mapping[str, str] | None = None,
) -> Path:
    """Write a random adapter whose update is clearly seen in the logits.

    Args:
        sums: the `base_sums` of its base, which a run writes down.
    """
    model, _ = load_model(base)
    config = AdapterConfig(type=kind, rank=4, layers=layers)
    mx.random.seed(3)
    attach(model, config)
    rng = np.random.default_rng(5)
    moved = [
        (name, mx.array(size * rng.standard_normal(value.shape).astype(np.float32)))
        for name, value in sorted(trainable(model).items())
        if not name.endswith(".m")
    ]
    model.load_weights(moved, strict=False)
    folder.mkdir(parents=True)
    save_adapter_config(model, config, str(base), folder, {KEY: sums} if sums else None)
    save_adapter_weights(model, folder)
    return folder
