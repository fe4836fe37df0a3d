"""A small model on which every forward is exact: if one fails here, the user's model is not the reason."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..data.tokenize import TokenizedPair
from ..models.adapters import AdapterConfig, attach
from ..upstream import model_classes

_TOKENS = 48
_CONFIG = {
    "model_type": "granitemoehybrid",
    "hidden_size": 32,
    "intermediate_size": 64,
    "shared_intermediate_size": 64,
    "num_hidden_layers": 3,
    "layer_types": ["mamba", "attention", "mamba"],
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "attention_bias": False,
    "position_embedding_type": "nope",
    "embedding_multiplier": 1.0,
    "attention_multiplier": 0.25,
    "residual_multiplier": 0.5,
    "logits_scaling": 2.0,
    "mamba_n_heads": 2,
    "mamba_d_head": 32,
    "mamba_d_state": 16,
    "mamba_d_conv": 4,
    "mamba_n_groups": 1,
    "mamba_conv_bias": True,
    "mamba_proj_bias": False,
    "num_local_experts": 0,
    "num_experts_per_tok": 0,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
    "vocab_size": _TOKENS,
}


def known_model() -> nn.Module:
    """A Granite hybrid with LoRA in float32, always the same: attention, a Mamba-2 scan, gated units."""
    mx.random.seed(0)
    kind, arguments = model_classes(_CONFIG)
    model = kind(arguments.from_dict(_CONFIG))
    attach(model, AdapterConfig(rank=2))
    return model


def known_pairs() -> list[TokenizedPair]:
    """Three pairs for `known_model`."""
    rng = np.random.default_rng(0)
    sizes = ((11, 6, 5), (12, 4, 7), (20, 9, 3))
    return [TokenizedPair(*(rng.integers(1, _TOKENS, n).astype(np.int32) for n in s), "") for s in sizes]
