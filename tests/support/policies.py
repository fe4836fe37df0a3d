"""Small policies of different architectures, and pairs for them."""

from functools import cache
from typing import Any

import mlx_dpo  # noqa: F401  (loads the fast BLAS, so it comes before MLX)

# isort: split
import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_dpo.data.tokenize import TokenizedPair
from mlx_dpo.demo.tiny_models import ARCHITECTURES, initialise
from mlx_dpo.forward.checkpointing import checkpoint_layers
from mlx_dpo.models.adapters import AdapterConfig, attach, trainable

VOCABULARY = 320
COMMON = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-5,
    "vocab_size": VOCABULARY,
    "rope_theta": 10000.0,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
}
CONFIGS: dict[str, dict[str, Any]] = {
    **{name: ARCHITECTURES[name][0](64, 3, VOCABULARY) for name in ("llama", "qwen3", "granite")},
    "gemma2": {**COMMON, "model_type": "gemma2", "query_pre_attn_scalar": 16.0},  # caps scores and logits
    "qwen3_next": {  # three gated-delta blocks, then one of attention; experts in all
        **COMMON,
        "model_type": "qwen3_next",
        "num_hidden_layers": 4,
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 16,
        "linear_conv_kernel_dim": 4,
        "shared_expert_intermediate_size": 32,
        "partial_rotary_factor": 0.5,
    },
    "qwen3_moe": {**COMMON, "model_type": "qwen3_moe"},
}


@cache
def policy(
    architecture: str, adapter: str = "lora", bits: int | None = None, dtype: mx.Dtype = mx.float32
) -> nn.Module:
    """A model with an adapter that has moved; not to be changed by a test."""
    from mlx_lm.utils import _get_classes

    config = CONFIGS[architecture]
    kind, arguments = _get_classes(config)
    mx.random.seed(0)  # a few vectors are drawn where the model is made
    model = kind(arguments.from_dict(config))
    initialise(model, seed=3)
    model.set_dtype(dtype)
    if bits:
        nn.quantize(model, group_size=32, bits=bits)
    experts = any("switch_mlp" in name for name, _ in model.named_modules())
    # DoRA has no form for stacked experts.
    targets = ["q_proj", "o_proj", "in_proj_qkvz", "out_proj"] if experts and adapter == "dora" else "all"
    if isinstance(targets, list):
        names = {n.rsplit(".", 1)[-1] for layer in model.layers for n, _ in layer.named_modules()}
        targets = [t for t in targets if t in names]
    mx.random.seed(1)
    attach(model, AdapterConfig(rank=4, type=adapter, targets=targets))
    moved = [(n, 0.05 * mx.random.normal(v.shape)) for n, v in trainable(model).items() if "lora_b" in n]
    model.load_weights(moved, strict=False)
    return model


@cache
def checkpointed(
    architecture: str, adapter: str, bits: int | None = None, dtype: mx.Dtype = mx.float32
) -> nn.Module:
    """The same with checkpointed blocks; not to be changed by a test either."""
    model = policy.__wrapped__(architecture, adapter, bits, dtype)
    checkpoint_layers(model)
    return model


def pair(prompt: int, chosen: int, rejected: int, seed: int) -> TokenizedPair:
    """Random tokens in these numbers."""
    rng = np.random.default_rng(seed)
    parts = (rng.integers(1, VOCABULARY, n).astype(np.int32) for n in (prompt, chosen, rejected))
    return TokenizedPair(*parts, f"rows:{seed}")


# Two prompts of nearly one length, which share one family, and one far longer; answers alike and unlike.
PAIRS = [pair(23, 14, 15, 0), pair(25, 14, 16, 1), pair(51, 24, 6, 2)]
REFERENCE = np.array([[-80, -85], [-80, -90], [-170, -40]], np.float32)
