#!/usr/bin/env python
"""Log-probabilities of PEFT on torch with adapters of both sides, for tests/export/test_peft.py.

    python -m venv peft && peft/bin/pip install mlx-lm torch==2.13.0 transformers==5.24.0 peft==0.21.2
    peft/bin/python -m tests.golden.golden_peft tests/golden/peft.json tests/golden/peft_adapters

peft.json: for each tiny base, the shapes of its weights on the Hub; for each adapter that mlx_dpo exports, a
hash of the exported tensors and what PEFT computes with them; for each adapter that PEFT has trained, what it
computes. peft_adapters/NAME are the latter, as PEFT saved them.
"""

import hashlib
import json
import sys
import zlib
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_dpo.models.hub_blocks import blocks_of

from .golden_models import CONFIGS as HALF
from .golden_models import weights

RANK, SCALE, LAST = 4, 1.5, 3
TOKENS = [5, 9, 30, 41, 7, 19, 22, 90, 3, 61, 12, 44]
_GRANITE_FACTORS = ("embedding_multiplier", "attention_multiplier", "logits_scaling", "residual_multiplier")
_QWEN3 = {
    **HALF["llama"],
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "tie_word_embeddings": False,
}
CONFIGS = {
    **HALF,
    "qwen3": _QWEN3,
    "qwen2": {**HALF["llama"], "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]},
    "granite-dense": {
        **HALF["llama"],
        "model_type": "granite",
        "architectures": ["GraniteForCausalLM"],
        **{name: HALF["granite"][name] for name in _GRANITE_FACTORS},
    },
    "gemma2": {
        **HALF["llama"],
        "model_type": "gemma2",
        "architectures": ["Gemma2ForCausalLM"],
        "hidden_size": 64,  # as below
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 8,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "sliding_window": 64,
    },
    "gemma3": {
        **HALF["llama"],
        "model_type": "gemma3_text",
        "architectures": ["Gemma3ForCausalLM"],
        "hidden_size": 64,  # mlx_lm rounds its square root to bfloat16, transformers does not
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 8,
        "sliding_window": 16,
        "sliding_window_pattern": 2,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "rope_local_base_freq": 10000.0,
        "rope_theta": 1000000.0,
    },
}
PEFT_MADE: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-rslora": ("llama", {"r": 4, "lora_alpha": 6, "use_rslora": True}),
    "llama-patterns": (
        "llama",
        {
            "r": 2,
            "lora_alpha": 3,
            "rank_pattern": {"down_proj": 5, "layers.1.self_attn.q_proj": 3},
            "alpha_pattern": {"^model.layers.0.mlp.gate_proj": 7, "v_proj": 1},
        },
    ),
    "llama-some-layers": ("llama", {"r": 3, "lora_alpha": 6, "layers_to_transform": [1]}),
    "qwen3-dora": ("qwen3", {"r": 2, "lora_alpha": 4, "use_dora": True}),
    "granite-lora": ("granite", {"r": 3, "lora_alpha": 6}),
    "granite-dora": ("granite", {"r": 2, "lora_alpha": 4, "use_dora": True}),
}
"""Adapters that PEFT makes: the base, and the settings of LoraConfig."""
_LINEAR = {
    "granite": [
        "in_proj",
        "out_proj",
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "input_linear",
        "output_linear",
    ]
}
_USUAL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def write_base(folder: Path, name: str, shapes: dict[str, list[int]]) -> Path:
    """A base in hub layout, the same to the last bit everywhere."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIGS[name]))
    arrays = {key: mx.array(value) for key, value in weights(shapes).items()}
    mx.save_safetensors(str(folder / "model.safetensors"), arrays, metadata={"format": "pt"})
    return folder


def write_adapter(folder: Path, name: str, kind: str) -> Path:
    """An adapter of mlx_lm on all linear layers, the same to the last bit everywhere."""
    arrays = {}
    blocks = blocks_of(CONFIGS[name])
    for block, layers in enumerate(blocks.layers):
        for layer, (outputs, inputs) in layers.items():
            path = f"model.layers.{block}.{layer}"
            rng = np.random.default_rng(zlib.crc32(path.encode()))
            own = {"lora_a": rng.normal(0, inputs**-0.5, (inputs, RANK))}
            own["lora_b"] = rng.normal(0, 0.2, (RANK, outputs))
            if kind == "dora":
                own["m"] = 0.3 * inputs**0.5 * (1 + 0.1 * rng.normal(0, 1, outputs))
            arrays |= {f"{path}.{key}": mx.array(value.astype(np.float32)) for key, value in own.items()}
    folder.mkdir(parents=True)
    mx.save_safetensors(str(folder / "adapters.safetensors"), arrays, metadata={"format": "mlx"})
    keys = sorted({name for layers in blocks.layers for name in layers})
    lora = {"rank": RANK, "scale": SCALE, "dropout": 0.0, "keys": keys}
    config = {"fine_tune_type": kind, "num_layers": -1, "lora_parameters": lora, "model": "tiny"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def tensors_hash(file: Path) -> str:
    """Of names, shapes and bytes of all tensors."""
    digest = hashlib.sha256()
    for name, value in sorted(mx.load(str(file)).items()):
        digest.update(f"{name} {value.shape} {value.dtype}".encode() + np.array(value).tobytes())
    return digest.hexdigest()[:32]


def _torch_base(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def _log_probs(model: Any) -> list[list[float]]:
    import torch

    with torch.no_grad():
        logits = model(torch.tensor([TOKENS])).logits[0, -LAST:].double()
        return [[round(v, 7) for v in row] for row in logits.log_softmax(-1).tolist()]


def _shapes(name: str) -> dict[str, list[int]]:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = dict(CONFIGS[name])
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(config.pop("model_type"), **config))
    tied = CONFIGS[name]["tie_word_embeddings"]
    return {
        key: list(value.shape)
        for key, value in model.state_dict().items()
        if not (tied and key == "lm_head.weight")
    }


def _exported(work: Path, base: Path, name: str, kind: str) -> dict[str, Any]:
    from peft import PeftModel

    from mlx_dpo.export.peft import peft_adapter
    from mlx_dpo.models.adapters import read_adapter_config

    adapter = write_adapter(work / f"{name}-{kind}", name, kind)
    folder = work / f"{name}-{kind}-peft"
    folder.mkdir()
    peft_adapter(adapter, read_adapter_config(adapter), blocks_of(CONFIGS[name]), "tiny").write(folder)
    model = PeftModel.from_pretrained(_torch_base(base), str(folder)).eval()
    return {"tensors": tensors_hash(folder / "adapter_model.safetensors"), "log_probs": _log_probs(model)}


def _trained(base: Path, name: str, to: Path) -> list[list[float]]:
    """An adapter that PEFT has trained for five steps of Adam, saved to a folder."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    family, settings = PEFT_MADE[name]
    targets = _LINEAR.get(family, _USUAL)
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=targets, **settings)
    model = get_peft_model(_torch_base(base), config).train()
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=0.05)
    tokens = torch.tensor([TOKENS, TOKENS[::-1]])
    for _ in range(5):
        optimizer.zero_grad()
        model(tokens, labels=tokens).loss.backward()
        optimizer.step()
    model.peft_config["default"].base_model_name_or_path = f"tiny/{family}"
    model.save_pretrained(str(to))
    (to / "README.md").unlink()
    return _log_probs(model.eval())


def main(target: str, adapters: str) -> None:
    """Write both."""
    import tempfile
    from importlib.metadata import version

    found: dict[str, Any] = {"shapes": {}, "exported": {}, "trained": {}}
    found["versions"] = {name: version(name) for name in ("torch", "transformers", "peft")}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for name in CONFIGS:
            found["shapes"][name] = _shapes(name)
            base = write_base(work / name, name, found["shapes"][name])
            for kind in ("lora", "dora"):
                found["exported"][f"{name}-{kind}"] = _exported(work, base, name, kind)
        for name, (family, _) in PEFT_MADE.items():
            found["trained"][name] = _trained(work / family, name, Path(adapters) / name)
    Path(target).write_text(json.dumps(found, indent=None, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
