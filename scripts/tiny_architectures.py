"""A tiny model of every architecture mlx_lm has: four blocks of width 64 with random float32 weights.

The sizes are chosen so that whatever an architecture does to long texts it does to short ones too: windows of
16 tokens, sparse attention to 8, chunks of 16, and both kinds of blocks where there are two.
"""

import dataclasses
import importlib
import pkgutil
from types import ModuleType
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

VOCABULARY = 256
WINDOW = 16
LAYERS = 4

_SIZES = {
    64: "hidden_size hidden_dim n_embd d_model model_dim block_dim block_ff_dim",
    LAYERS: "num_hidden_layers num_layers n_layer n_layers num_transformer_layers",
    4: "num_attention_heads num_heads n_head n_heads swa_num_attention_heads",
    2: "num_key_value_heads num_kv_heads n_kv_heads swa_num_key_value_heads num_attention_groups",
    96: "intermediate_size intermediate_size_mlp dense_intermediate_size ffn_hidden_size n_inner "
    "ff_intermediate_size",
    32: "moe_intermediate_size expert_ffn_hidden_size shared_intermediate_size kv_lora_rank q_lora_rank "
    "shared_expert_intermediate_size moe_shared_expert_intermediate_size share_expert_dim",
    VOCABULARY: "vocab_size num_vocab vocab_size_per_layer_input",
    512: "max_position_embeddings n_positions n_ctx block_size model_max_length "
    "original_max_position_embeddings",
    WINDOW: "sliding_window sliding_window_size attention_window_size window_size loop_window_size "
    "head_dim kv_channels v_head_dim qk_nope_head_dim hidden_size_per_head swa_head_dim swa_v_head_dim "
    "index_head_dim attention_chunk_size mamba_d_state state_size ssm_state_size mamba_d_head "
    "mamba_head_dim linear_key_head_dim linear_value_head_dim dim_model_base",
    8: "qk_rope_head_dim rotary_dim index_topk time_step_rank mamba_n_heads mamba_num_heads n_groups_of "
    "a_low_rank_dim v_low_rank_dim gate_low_rank_dim decay_low_rank_dim hidden_size_per_layer_input",
}
_COUNTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "num_experts_per_token": 2,
    "moe_topk": 2,
    "moe_top_k": 2,
    "moe_k": 2,
    "n_shared_experts": 1,
    "num_shared_experts": 1,
    "num_shared_expert": 1,
    "moe_num_shared_experts": 1,
    "first_k_dense_replace": 1,
    "num_dense_layers": 1,
    "moe_layer_freq": 1,
    "decoder_sparse_step": 1,
    "n_group": 1,
    "topk_group": 1,
    "zero_expert_num": 1,
    "index_n_heads": 2,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_conv_kernel_dim": 4,
    "sliding_window_pattern": 2,
    "full_attention_interval": 2,
    "layer_group_size": 2,
    "group_norm_size": 1,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_n_groups": 1,
    "n_groups": 1,
    "conv_kernel": 4,
    "conv1d_width": 4,
    "conv_window": 2,
    "conv_L_cache": 3,
    "block_multiple_of": 32,
    "block_ffn_dim_multiplier": 1.0,
    "rope_theta": 10000.0,
    "rope_local_base_freq": 1000.0,
    "swa_rope_theta": 1000.0,
    "rotary_emb_base": 10000,
    "rotary_pct": 0.5,
    "partial_rotary_factor": 0.5,
    "routed_scaling_factor": 1.0,
    "norm_topk_prob": True,
    "logits_scaling": 2.0,
    "attention_multiplier": 0.25,
    "embedding_multiplier": 4.0,
    "residual_multiplier": 0.5,
    "final_logit_softcapping": 30.0,
    "scale_depth": 1.4,
    "scale_emb": 4.0,
    "query_pre_attn_scalar": 16.0,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "hidden_act": "silu",
}
_VALUES = {name: size for size, names in _SIZES.items() for name in names.split()} | _COUNTS

_SLIDING = ["sliding_attention", "full_attention"] * (LAYERS // 2)
_LINEAR = ["linear_attention", "full_attention"] * (LAYERS // 2)
_CONVOLUTION = ["conv", "full_attention"] * (LAYERS // 2)
_KDA = {
    "kda_layers": [1, 3],
    "full_attn_layers": [2, 4],
    "num_heads": 2,
    "head_dim": 16,
    "short_conv_kernel_size": 4,
}

_OVERRIDES: dict[str, dict[str, Any]] = {
    "afmoe": {"layer_types": _SLIDING},
    "baichuan_m1": {"sliding_window_layers": [0, 2]},
    "gear": {"layer_types": ["sliding_attention", "full_attention", "conv", "conv"]},
    "exaone4": {"sliding_window_pattern": "LG"},
    "exaone_moe": {"layer_types": _SLIDING, "is_moe_layer": [False, True, True, True]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "jamba": {"attn_layer_offset": 1, "attn_layer_period": 2, "expert_layer_offset": 1, "expert_layer_period": 2},
    "kimi_linear": {"linear_attn_config": _KDA},
    "laguna": {"layer_types": _SLIDING},
    "lfm2": {"layer_types": _CONVOLUTION, "block_auto_adjust_ff_dim": True},
    "lfm2_moe": {"layer_types": _CONVOLUTION},
    "llama": {"layer_types": _SLIDING},
    "llama4_text": {"no_rope_layers": [1, 0, 1, 0]},
    "mellum": {
        "layer_types": _SLIDING,
        "rope_parameters": {
            "sliding_attention": {"rope_theta": 1000.0, "rope_type": "default"},
            "full_attention": {"rope_theta": 10000.0, "rope_type": "default"},
        },
    },
    "mimo_v2_flash": {"hybrid_layer_pattern": [0, 1, 0, 1], "moe_layer_freq": [0, 1, 1, 1]},
    "ministral3": {"layer_types": _SLIDING},
    "muse_glimmer": {"layer_types": _SLIDING},
    "nemotron_h": {"hybrid_override_pattern": list("M*-E")},
    "olmo3": {"layer_types": _SLIDING},
    "olmo_hybrid": {"layer_types": _LINEAR},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "spark2_5": {"layer_types": _SLIDING},
    "step3p5": {"layer_types": _SLIDING, "moe_layers_enum": "2,3"},
    "gemma4_text": {"layer_types": _SLIDING, "num_kv_shared_layers": 0},
    "gpt_oss": {"layer_types": _SLIDING},
}


def modules() -> tuple[list[str], list[str]]:
    """Names of mlx_lm's modules: those that define an architecture, and helpers, which define none.

    A module that cannot be imported counts as an architecture: what it defines cannot be known.
    """
    import mlx_lm.models

    architectures, helpers = [], []
    for info in sorted(pkgutil.iter_modules(mlx_lm.models.__path__), key=lambda m: m.name):
        try:
            module = load(info.name)
        except (ImportError, SystemExit):
            architectures.append(info.name)
            continue
        (architectures if hasattr(module, "Model") and hasattr(module, "ModelArgs") else helpers).append(info.name)
    return architectures, helpers


def load(name: str) -> ModuleType:
    return importlib.import_module(f"mlx_lm.models.{name}")


def tiny_config(name: str, args: type | None = None) -> dict[str, Any]:
    module = load(name)
    args = args or module.ModelArgs
    given = _OVERRIDES.get(name, {})
    config: dict[str, Any] = {}
    for f in dataclasses.fields(args):
        if f.name in given:
            config[f.name] = given[f.name]
        elif f.name == "model_type":
            config[f.name] = name
        elif f.name in _VALUES:
            config[f.name] = _VALUES[f.name]
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            config[f.name] = _by_type(f)
    return config


def _by_type(f: Any) -> Any:
    if f.name.endswith(("eps", "epsilon")):
        return 1e-5
    if f.type is bool:
        return False
    if str(f.type).startswith(("typing.Optional", "Optional")):
        return None
    if f.type is list or str(f.type).startswith(("typing.List", "List")):
        return []
    raise ValueError(f"no value for {f.name}: {f.type}")


def build(name: str, seed: int = 0) -> nn.Module:
    module = load(name)
    model = module.Model(module.ModelArgs.from_dict(tiny_config(name)))
    _initialise(model, seed)
    return model


def _initialise(model: nn.Module, seed: int) -> None:
    parameters = tree_flatten(model.parameters())
    keys = mx.random.split(mx.random.key(seed), len(parameters))

    def draw(path: str, value: mx.array, key: mx.array) -> mx.array:
        if not mx.issubdtype(value.dtype, mx.floating):
            return value
        noise = mx.random.normal(value.shape, key=key)
        if path.endswith("dt_bias"):
            return mx.random.uniform(-4.0, -1.0, value.shape, key=key)
        if value.ndim < 2 or not path.endswith("weight"):
            return value.astype(mx.float32) + 0.1 * noise
        inputs = value[0].size if "conv" in path else value.shape[-1]
        return inputs**-0.5 * noise

    model.update(tree_unflatten([(n, draw(n, v, k)) for (n, v), k in zip(parameters, keys, strict=True)]))
    mx.eval(model.parameters())
