"""Write an adapter as PEFT, vLLM and llama.cpp read it: adapter_model.safetensors and adapter_config.json.

All modules have the same rank and scale, because vLLM and llama.cpp ignore patterns of ranks and scales.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx

from ..errors import DpoError, first_ten
from ..models.adapters import CONFIG, WEIGHTS, AdapterConfig
from ..models.foreign_weights import PEFT_WEIGHTS
from ..models.hub_blocks import Blocks
from ..models.peft_adapter import SCALE
from ..models.peft_tensors import Part, joined, padded
from ..models.weights import check_tensors
from ..printed_commands import command_line, path_word
from ..storage.reading import read_object
from .read_back import check_fields, check_tensor_names, damaged, same_bits

PREFIX = "base_model.model."
_MOST_DOUBLINGS = 10
_VLLM_DEFAULT, _VLLM_RANKS = 16, (1, 8, 16, 32, 64, 128, 256, 320, 512)


class PeftAdapter(NamedTuple):
    """The content of both files. `parts`: the adapter of each module, by its name on the Hub."""

    parts: dict[str, Part]
    config: dict[str, Any]
    metadata: dict[str, str]

    @property
    def scale(self) -> float:
        return self.config["lora_alpha"] / self.config["r"]

    def tensors(self) -> dict[str, mx.array]:
        """The tensors by PEFT's names."""
        named = {}
        for module, part in self.parts.items():
            named[f"{PREFIX}{module}.lora_A.weight"] = part.a.T
            named[f"{PREFIX}{module}.lora_B.weight"] = part.b.T
            if part.m is not None:
                named[f"{PREFIX}{module}.lora_magnitude_vector"] = part.m
        return {name: mx.contiguous(value) for name, value in named.items()}

    def write(self, folder: Path) -> None:
        """Write both files."""
        mx.save_safetensors(str(folder / PEFT_WEIGHTS[0]), self.tensors(), metadata=self.metadata)
        (folder / CONFIG).write_text(json.dumps(self.config, indent=2) + "\n")

    def check(self, folder: Path) -> None:
        """Read both files back.

        Raises:
            DpoError: names the tensor or the field that is not what was written.
        """
        wanted = self.tensors()
        check_tensor_names(mx.load(str(folder / PEFT_WEIGHTS[0])).keys(), wanted, folder)
        for name, value in mx.load(str(folder / PEFT_WEIGHTS[0])).items():
            if not same_bits(value, wanted[name]):
                raise damaged(f"the tensor {name} is not what it should be", folder)
        check_fields(folder / CONFIG, read_object(folder / CONFIG), self.config)


def peft_adapter(folder: Path, own: AdapterConfig, blocks: Blocks, base_name: str) -> PeftAdapter:
    """The adapter in `folder`, trained by mlx_dpo or mlx_lm, as PEFT needs it.

    Args:
        own: the settings in the folder.
        blocks: of the base model.
        base_name: base_model_name_or_path.

    Raises:
        DpoError: PEFT has no adapter for one of its layers.
    """
    weights = check_tensors(folder / WEIGHTS, "copy the run folder again")
    parts = _modules(weights, own, blocks, folder)
    rank = max(part.rank for part in parts.values())
    alpha, factor = whole_alpha(own.scale, rank)
    parts = {name: padded(part._replace(b=part.b * factor), rank) for name, part in parts.items()}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": own.dropout,
        "target_modules": _targets(parts, blocks),
        "bias": "none",
        "use_dora": own.type == "dora",
        "use_rslora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "modules_to_save": None,
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    return PeftAdapter(parts, config, {"format": "pt", SCALE: repr(own.scale)})


def whole_alpha(scale: float, rank: int) -> tuple[int | float, float]:
    """lora_alpha = scale * rank as a whole number, and the power of two by which B changes for that.

    Multiplying by a power of two is exact. If no such power up to 1024 gives a whole number, B stays, and
    lora_alpha is not whole: Ollama then refuses the adapter; PEFT, vLLM and llama.cpp read it.

    scale 2, rank 16 -> 32, 1      scale 0.3125, rank 8 -> 5, 0.5      scale 0.7, rank 16 -> 11.2, 1
    """
    for doublings in range(_MOST_DOUBLINGS + 1):
        alpha = scale * rank * 2**doublings
        if alpha.is_integer():
            return int(alpha), 0.5**doublings
    return scale * rank, 1.0


def _modules(
    weights: Mapping[str, mx.array], own: AdapterConfig, blocks: Blocks, folder: Path
) -> dict[str, Part]:
    """The adapter of each module by its name on the Hub."""
    layers: dict[tuple[int, str], dict[str, mx.array]] = {}
    for name, value in weights.items():
        path, key = name.rsplit(".", 1)
        block, layer = path.removeprefix("model.layers.").split(".", 1)
        layers.setdefault((int(block), layer), {})[key] = value
    if unknown := sorted({layer for block, layer in layers if layer not in blocks.layers[block]}):
        raise DpoError(
            f"adapts {first_ten(unknown)}, for which PEFT has no adapter",
            where=folder,
            hint="fuse the run, or train with other adapter.targets, such as [q_proj, v_proj]",
        )
    modules: dict[str, Part] = {}
    for block in sorted({block for block, _ in layers}):
        for name, parts in blocks.from_hub(block).items():
            halves = {
                number: Part(own_arrays["lora_a"], own_arrays["lora_b"], own_arrays.get("m"))
                for number, layer in enumerate(parts)
                if (own_arrays := layers.get((block, layer)))
            }
            if not halves:
                continue
            if own.type == "dora" and len(halves) < len(parts):
                raise DpoError(
                    f"adapts only one of {' and '.join(parts)}, which are one layer on the Hub: PEFT "
                    "needs the magnitudes of both for DoRA",
                    where=folder,
                    hint="train with both in adapter.targets, or fuse the run",
                )
            outputs = [blocks.layers[block][layer][0] for layer in parts]
            modules[f"model.layers.{block}.{name}"] = joined(halves, outputs)
    return modules


def _targets(parts: Mapping[str, Part], blocks: Blocks) -> list[str]:
    """Last names of the modules if PEFT would find the same modules by them, else their full names."""
    every = [
        f"model.layers.{block}.{name}"
        for block in range(len(blocks.layers))
        for name in blocks.from_hub(block)
    ]
    last = {name.rsplit(".", 1)[1] for name in parts}
    same = {name for name in every if name.rsplit(".", 1)[1] in last} == parts.keys()
    return sorted(last) if same else sorted(parts)


def consumer_notes(config: Mapping[str, Any], folder: Path) -> list[str]:
    """What other programs need to read this adapter, or why they refuse it."""
    rank = config["r"]
    if config.get("use_dora"):
        return [
            "vLLM and llama.cpp refuse DoRA: for them, fuse the run (mlx-dpo fuse); PEFT reads it",
        ]
    notes = []
    flag = next((most for most in _VLLM_RANKS if most >= rank), None)
    if flag is None:
        notes.append(f"vLLM refuses ranks above {_VLLM_RANKS[-1]}: for vLLM, fuse the run")
    elif rank > _VLLM_DEFAULT:
        notes.append(
            f"vLLM refuses ranks above {_VLLM_DEFAULT} by default, and this one is {rank}: "
            f"add --max-lora-rank {flag}"
        )
    base = config["base_model_name_or_path"]
    words = ["python", "convert_lora_to_gguf.py", path_word(folder), "--base", f"FOLDER_OF_{Path(base).name}"]
    notes.append(f"llama.cpp: {command_line(words)}")
    if not isinstance(config["lora_alpha"], int):
        notes.append(
            f"lora_alpha is {config['lora_alpha']:g}: no whole number gives exactly the same scale; Ollama "
            "takes whole numbers only"
        )
    return notes
