"""Two tiny models in hub layout, the same to the last bit wherever NumPy makes them; and pairs for them."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

_COMMON = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "initializer_range": 0.02,
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
CONFIGS = {
    "llama": {
        **_COMMON,
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "intermediate_size": 64,
        "head_dim": 8,
        "rope_theta": 10000.0,
        "mlp_bias": False,
    },
    "granite": {
        **_COMMON,
        "model_type": "granitemoehybrid",
        "architectures": ["GraniteMoeHybridForCausalLM"],
        "intermediate_size": 64,
        "shared_intermediate_size": 64,
        "embedding_multiplier": 12.0,
        "attention_multiplier": 0.125,
        "logits_scaling": 3.0,
        "residual_multiplier": 0.3,
        "layer_types": ["mamba", "attention", "mamba"],
        "num_local_experts": 0,
        "num_experts_per_tok": 0,
        "position_embedding_type": "nope",
        "rope_theta": 10000.0,
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "mamba_d_state": 16,
        "mamba_d_conv": 4,
        "mamba_n_groups": 1,
        "mamba_expand": 2,
        "mamba_chunk_size": 256,
        "mamba_conv_bias": True,
        "mamba_proj_bias": False,
        # mlx_lm's own lower limit is 0.001, transformers has none: up to 1.4e-4 nats of 50 apart here.
        "time_step_limit": [0.0, 100.0],
    },
}


def weights(shapes: dict[str, list[int]], moved: float = 0.0) -> dict[str, np.ndarray]:
    """Float32 weights by their names on the Hub; `moved` is how far a policy is from its reference."""
    made = {}
    for name, shape in shapes.items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        noise = rng.normal(0, 1, shape)
        if name.endswith("A_log"):
            value = np.log(1 + 15 * rng.random(shape))
        elif name.endswith("norm.weight") or name.endswith("layernorm.weight") or name.endswith(".D"):
            value = 1 + 0.1 * noise
        elif name.endswith("dt_bias"):
            value = noise - 2
        else:
            value = noise * (0.05 if "embed" in name else 0.3)
        made[name] = (value + moved * rng.normal(0, 1, shape)).astype(np.float32)
    return made


def pairs(count: int = 16) -> list[tuple[list[int], list[int], list[int]]]:
    """Prompt, chosen and rejected tokens, of unequal lengths."""
    rng = np.random.default_rng(11)

    def some(low: int, high: int) -> list[int]:
        return [int(t) for t in rng.integers(3, 96, rng.integers(low, high))]

    return [(some(4, 20), [*some(2, 14), 2], [*some(2, 14), 2]) for _ in range(count)]


def write_model(
    folder: Path, name: str, made: dict[str, np.ndarray], save: Callable[[dict[str, np.ndarray], str], object]
) -> Path:
    """config.json and model.safetensors, the latter by `save(weights, path)`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIGS[name]))
    save(made, str(folder / "model.safetensors"))
    return folder
