"""A tiny model of every architecture mlx_lm has: four blocks of width 64 with random float32 weights.

The sizes are chosen so that whatever an architecture does to long texts it does to short ones too: windows of
16 tokens, sparse attention to 8, chunks of 16, and both kinds of blocks where there are two.
"""

import contextlib
import dataclasses
import importlib
import io
import pkgutil
from types import ModuleType
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

VOCABULARY = 256
TOKENS = 250
"""Tokens from here on stand for those that some architectures never give."""
WINDOW = 16
LAYERS = 4
_MOST = 5_000_000
"""Parameters of a model that is still tiny: more means that a size was left at a large model's."""

_VALUES = {  # what a setting's name means, whatever the architecture
    name: value
    for value, names in (
        (VOCABULARY, "vocab_size num_vocab vocab_size_per_layer_input"),
        (64, "hidden_size hidden_dim n_embd d_model model_dim block_dim block_ff_dim"),
        (LAYERS, "num_hidden_layers num_layers n_layer n_layers num_transformer_layers"),
        (4, "num_attention_heads num_heads n_head n_heads swa_num_attention_heads"),
        (2, "num_key_value_heads num_kv_heads n_kv_heads swa_num_key_value_heads num_attention_groups"),
        (96, "intermediate_size intermediate_size_mlp dense_intermediate_size ffn_hidden_size n_inner"),
        (96, "ff_intermediate_size"),
        (32, "moe_intermediate_size expert_ffn_hidden_size shared_intermediate_size share_expert_dim"),
        (32, "shared_expert_intermediate_size moe_shared_expert_intermediate_size"),
        (32, "kv_lora_rank q_lora_rank block_multiple_of"),
        (512, "max_position_embeddings original_max_position_embeddings n_positions n_ctx block_size"),
        (512, "model_max_length"),
        (WINDOW, "sliding_window sliding_window_size attention_window_size window_size loop_window_size"),
        (WINDOW, "attention_chunk_size"),
        (16, "head_dim kv_channels v_head_dim qk_nope_head_dim hidden_size_per_head swa_head_dim"),
        (16, "swa_v_head_dim index_head_dim linear_key_head_dim linear_value_head_dim mamba_d_head"),
        (16, "mamba_head_dim mamba_d_state state_size ssm_state_size dim_model_base"),
        (8, "qk_rope_head_dim rotary_dim index_topk time_step_rank mamba_n_heads mamba_num_heads"),
        (8, "a_low_rank_dim v_low_rank_dim gate_low_rank_dim decay_low_rank_dim hidden_size_per_layer_input"),
        (4, "num_experts num_local_experts n_routed_experts moe_num_experts linear_num_value_heads"),
        (4, "linear_conv_kernel_dim mamba_d_conv conv_kernel conv1d_width"),
        (3, "conv_L_cache"),
        (2, "num_experts_per_tok num_experts_per_token moe_topk moe_top_k moe_k top_k_experts"),
        (2, "index_n_heads linear_num_key_heads sliding_window_pattern full_attention_interval"),
        (2, "layer_group_size conv_window mamba_expand dense_attention_every_n_layers"),
        (1, "n_shared_experts num_shared_experts num_shared_expert moe_num_shared_experts"),
        (1, "first_k_dense_replace num_dense_layers moe_layer_freq decoder_sparse_step n_group topk_group"),
        (1, "zero_expert_num group_norm_size mamba_n_groups n_groups"),
        (0.5, "rotary_pct partial_rotary_factor residual_multiplier"),
        (1.0, "block_ffn_dim_multiplier routed_scaling_factor"),
        (4.0, "embedding_multiplier scale_emb"),
        (10000.0, "rope_theta rotary_emb_base"),
        (1000.0, "rope_local_base_freq rope_local_theta swa_rope_theta"),
        (30.0, "final_logit_softcapping logits_soft_cap"),
        (True, "norm_topk_prob use_qk_norm qk_norm"),
        ("sigmoid", "scoring_func"),
        ("noaux_tc", "topk_method"),
        ("silu", "hidden_act"),
    )
    for name in names.split()
} | {
    "logits_scaling": 2.0,
    "attention_multiplier": 0.25,
    "scale_depth": 1.4,
    "query_pre_attn_scalar": 16.0,
}

_SLIDING = ["sliding_attention", "full_attention"] * (LAYERS // 2)
_LINEAR = ["linear_attention", "full_attention"] * (LAYERS // 2)
_CONVOLUTION = ["conv", "full_attention"] * (LAYERS // 2)
_DELTA = {
    "kda_layers": [1, 3],
    "full_attn_layers": [2, 4],
    "num_heads": 2,
    "head_dim": 16,
    "short_conv_kernel_size": 4,
}
_ROPES = {
    "sliding_attention": {"rope_theta": 1000.0, "rope_type": "default"},
    "full_attention": {"rope_theta": 10000.0, "rope_type": "default"},
}
_YARN = {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32, "mscale_all_dim": 1.0}
_LLAMA4 = {
    "type": "yarn",
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 2.0,
    "original_max_position_embeddings": 32,
    "llama_4_scaling_beta": 0.1,
}
_BLOCKS = [
    {"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 2.0}},
    {"attention": {"no_op": True}, "ffn": {"ffn_mult": 1.0}},
    {"attention": {"replace_with_linear": True}, "ffn": {"no_op": True}},
    {"attention": {"n_heads_in_group": 4}, "ffn": {"replace_with_linear": True}},
]

_OVERRIDES: dict[str, dict[str, Any]] = {
    "afm7": {"num_kv_reuse_layers": 2},
    "afmoe": {"layer_types": _SLIDING},
    "baichuan_m1": {"sliding_window_layers": [0, 2]},
    "dbrx": {
        "ffn_config": {"ffn_hidden_size": 96, "moe_num_experts": 4, "moe_top_k": 2},
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
    },
    "deepseek_v2": {"rope_scaling": _YARN, "topk_method": "greedy"},
    "deepseek_v41": {
        "compress_ratios": (0, 4, 4, 0),
        "kv_source_layer_ids": (1,),
        "index_source_layer_ids": (1,),
        "o_groups": 2,
        "o_lora_rank": 16,
        "index_topk": 4,
    },
    "exaone4": {"sliding_window_pattern": "LG", "rope_scaling": None},
    "exaone_moe": {"layer_types": _SLIDING, "is_moe_layer": [False, True, True, True]},
    "falcon_h1": {"mamba_d_ssm": 128},
    "gear": {"layer_types": ["sliding_attention", "full_attention", "conv_mixer", "conv_mixer"]},
    "gemma3n": {
        "layer_types": _SLIDING,
        "num_kv_shared_layers": 1,
        "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
        "altup_num_inputs": 2,
        "altup_coef_clip": 120.0,
        "altup_correct_scale": True,
        "altup_active_idx": 0,
        "laurel_rank": 8,
    },
    "gemma4_text": {
        "layer_types": _SLIDING,
        "num_kv_shared_layers": 2,
        "global_head_dim": 32,
        "enable_moe_block": True,
    },
    "glm_moe_dsa": {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}},
    "gpt_oss": {"layer_types": _SLIDING},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "hunyuan": {
        "use_cla": True,
        "cla_share_factor": 2,
        "use_mixed_mlp_moe": True,
        "rope_scaling": {"type": "dynamic", "factor": 1.0, "alpha": 2.0},
    },
    "jamba": {
        "attn_layer_offset": 1,
        "attn_layer_period": 2,
        "expert_layer_offset": 1,
        "expert_layer_period": 2,
    },
    "kimi_k3": {
        "linear_attn_config": _DELTA,
        "hidden_act": "situ",
        "activation_situ_beta": 1.0,
        "activation_situ_linear_beta": 1.0,
        "attn_res_block_size": 2,
    },
    "kimi_linear": {"linear_attn_config": _DELTA},
    "laguna": {"layer_types": _SLIDING, "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]},
    "lfm2": {"layer_types": _CONVOLUTION, "block_auto_adjust_ff_dim": True},
    "lfm2_moe": {"layer_types": _CONVOLUTION},
    "llama": {"layer_types": _SLIDING},
    "llama4": {
        "interleave_moe_layer_step": 2,
        "num_experts_per_tok": 1,
        "rope_scaling": None,
        "floor_scale": 16,
    },
    "llama4_text": {"no_rope_layers": [1, 0, 1, 0]},
    "longcat_flash": {
        "attention_method": "MLA",
        "zero_expert_type": "identity",
        "mla_scale_q_lora": True,
        "mla_scale_kv_lora": True,
    },
    "longcat_flash_ngram": {"mla_scale_q_lora": True, "mla_scale_kv_lora": True, "ngram_vocab_size_ratio": 2},
    "mamba": {"num_hidden_layers": 2},  # token by token in Python: slow
    "mamba2": {"time_step_limit": (0.001, 100.0)},
    "mellum": {"layer_types": _SLIDING, "rope_parameters": _ROPES},
    "mimo_v2_flash": {"hybrid_layer_pattern": [0, 1, 0, 1], "moe_layer_freq": [0, 1, 1, 1]},
    "minicpm3": {"rope_scaling": {"original_max_position_embeddings": 512}},
    "minimax_m3_vl": {
        "moe_layer_freq": [0, 1, 1, 1],
        "index_block_size": 8,
        "index_topk_blocks": 2,
        "sparse_attention_freq": [0, 1, 0, 1],
    },
    "ministral3": {"layer_types": _SLIDING, "rope_parameters": _LLAMA4},
    "mistral4": {"rope_parameters": _LLAMA4},
    "muse_glimmer": {"layer_types": _SLIDING, "layer_rope_theta": None},
    "muse_spark": {
        "layer_types": _SLIDING,
        "layer_rope_theta": [1000.0, 0.0, 1000.0, 0.0],
        "rope_parameters": {"rope_theta": 1000.0},
        "output_multiplier": 0.2,
        "moe_hidden_size": 32,
        "num_shared_experts": 0,
    },
    "nanbeige": {"num_loops": 2},
    "nemotron-nas": {"block_configs": _BLOCKS},
    "nemotron_h": {"hybrid_override_pattern": list("M*-E")},
    "olmo3": {"layer_types": _SLIDING},
    "olmo_hybrid": {"layer_types": _LINEAR},
    "openelm": {
        "ffn_dim_divisor": 16,
        "num_query_heads": [4] * LAYERS,
        "num_kv_heads": [2] * LAYERS,
        "ffn_multipliers": [1.0] * LAYERS,
    },
    "phi3small": {
        "gegelu_limit": 20.0,
        "blocksparse_block_size": 32,
        "blocksparse_num_local_blocks": 1,
        "blocksparse_vert_stride": 2,
    },
    "plamo": {"n_shared_head": 4},
    "plamo2": {"full_attention_idx": [3]},
    "prism_hadamard_qwen35": {
        "hidden_size": 128,
        "num_experts": 0,
        "tensor_namespace": "mlx-vlm-qwen3_5",
        "quantization": {"bits": 2, "group_size": 128, "mode": "affine"},
        "modules": [{"path": "model.embed_tokens", "embedding": True, "dtype": "float16", "block": 0}],
    },
    "qwen3_5": {"num_experts": 0},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "rwkv7": {"num_hidden_layers": 2},  # as mamba
    "spark2_5": {"layer_types": _SLIDING, "rope_parameters": _ROPES, "hidden_act": "gelu"},
    "step3p5": {"layer_types": _SLIDING, "moe_layers_enum": "2,3"},
}
"""Where sizes say too little: kinds of blocks and their order, scaled positions, settings within settings."""

_TEXT = {
    "gemma3": ("gemma3_text", "ModelArgs"),
    "gemma3n": ("gemma3n", "TextConfig"),
    "gemma4": ("gemma4_text", "ModelArgs"),
    "kimi_k25": ("deepseek_v3", "ModelArgs"),
    "kimi_k3": ("kimi_k3", "TextArgs"),
    "kimi_vl": ("kimi_vl", "TextArgs"),
    "lfm2-vl": ("lfm2", "ModelArgs"),
    "llama4": ("llama4", "TextArgs"),
    "minimax_m3_vl": ("minimax_m3_vl", "TextArgs"),
    "mistral3": ("ministral3", "ModelArgs"),
    "muse_spark": ("muse_spark", "TextArgs"),
    "pixtral": ("llama", "ModelArgs"),
    "prism_hadamard_qwen35": ("qwen3_5", "TextModelArgs"),
    "qwen2_vl": ("qwen2", "ModelArgs"),
    "qwen3_5": ("qwen3_5", "TextModelArgs"),
    "qwen3_5_moe": ("qwen3_5", "TextModelArgs"),
    "qwen3_vl": ("qwen3", "ModelArgs"),
    "qwen3_vl_moe": ("qwen3_moe", "ModelArgs"),
}
"""Wrappers of a text model: the module and class of its own settings, their `text_config`."""


def architectures() -> tuple[list[str], list[str]]:
    """Names of mlx_lm's modules: those that define an architecture, and helpers, which define none.

    A module that cannot be imported counts as an architecture: what it defines cannot be known.
    """
    import mlx_lm.models

    found, helpers = [], []
    for info in sorted(pkgutil.iter_modules(mlx_lm.models.__path__), key=lambda m: m.name):
        try:
            module = load(info.name)
        except ImportError:
            found.append(info.name)
            continue
        (found if hasattr(module, "Model") and hasattr(module, "ModelArgs") else helpers).append(info.name)
    return found, helpers


def load(name: str) -> ModuleType:
    """The module of that name.

    Raises:
        ImportError: it needs what is not installed; some modules say so and exit.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            return importlib.import_module(f"mlx_lm.models.{name}")
    except SystemExit:
        raise ImportError(said.getvalue().strip()) from None


def tiny_config(name: str) -> dict[str, Any]:
    """Settings of a tiny model of this architecture, as its config.json would hold them."""
    config = _filled(load(name).ModelArgs, name)
    if name in _TEXT:
        module, kind = _TEXT[name]
        own = _OVERRIDES.get(module, {}) | _OVERRIDES.get(name, {})
        config["text_config"] = _filled(getattr(load(module), kind), module, own)
    return config


def _filled(args: type, model_type: str, given: dict[str, Any] | None = None) -> dict[str, Any]:
    """A value for every field that needs one and for every size: a default is that of a large model."""
    given = _OVERRIDES.get(model_type, {}) if given is None else given
    config: dict[str, Any] = {}
    for f in dataclasses.fields(args):
        if f.name in given:
            config[f.name] = given[f.name]
        elif f.name == "model_type":
            config[f.name] = model_type
        elif f.name in _VALUES:
            config[f.name] = _VALUES[f.name]
        elif f.name != "text_config" and f.default is f.default_factory is dataclasses.MISSING:
            config[f.name] = _by_type(f)
    return config


def _by_type(f: dataclasses.Field) -> Any:
    """For a required setting whose name is not known.

    Raises:
        ValueError: its type tells too little.
    """
    kind = str(f.type)
    if f.name.endswith(("eps", "epsilon")):
        return 1e-5
    if f.type is bool:
        return False
    if "Optional" in kind:
        return None
    if f.type is list or "List" in kind:
        return []
    raise ValueError(f"no value for {f.name}: {kind}")


def build(name: str, **settings: Any) -> nn.Module:
    """The tiny model of that architecture, the same every time; other settings of its config may be given.

    Raises:
        Exception: whatever mlx_lm's code raises on settings that are not complete, or without a GPU.
    """
    module = load(name)
    model = module.Model(module.ModelArgs.from_dict(tiny_config(name) | settings))
    size = sum(value.size for _, value in tree_flatten(model.parameters()))
    if size > _MOST:
        raise ValueError(f"not tiny: {size:,} parameters")
    if hasattr(model, "_dummy_tokenizer_ids"):  # phi3small: ids of its real vocabulary, never given
        model._dummy_tokenizer_ids = mx.arange(TOKENS, VOCABULARY)
    _initialise(model)
    return model


def _initialise(model: nn.Module) -> None:
    """Matrices of deviation 1/sqrt(inputs); norms, biases and other vectors with noise: none stays 0 or 1.

    Time steps are small, as trained recurrent models have them, so that states last and do not explode.
    """
    parameters = tree_flatten(model.parameters())
    keys = mx.random.split(mx.random.key(0), len(parameters))

    def draw(path: str, value: mx.array, key: mx.array) -> mx.array:
        if not mx.issubdtype(value.dtype, mx.floating):
            return value
        if path.endswith("dt_bias"):
            return mx.random.uniform(-4.0, -1.0, value.shape, key=key)
        noise = mx.random.normal(value.shape, key=key)
        if value.ndim < 2 or not path.endswith("weight"):
            return value.astype(mx.float32) + 0.1 * noise
        inputs = value[0].size if "conv" in path else value.shape[-1]
        return inputs**-0.5 * noise

    model.update(tree_unflatten([(n, draw(n, v, k)) for (n, v), k in zip(parameters, keys, strict=True)]))
    mx.eval(model.parameters())
