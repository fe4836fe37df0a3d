"""A model without its weights: every array has its shape and type, but only one element in memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..forward.body_and_head import line_to
from ..forward.checkpointing import checkpoint_layers
from ..forward.prompt_cache import empty_state
from ..forward.quantised import speed_up_products
from ..models.adapters import AdapterConfig, attach_unevaluated
from ..models.config_files import read_model_config
from ..storage.reading import files_in
from ..upstream import model_classes
from .graph_operations import placeholders


class Skeleton(NamedTuple):
    """The model, with its blocks marked for a trace.

    `model` may have fewer blocks than the real one: of many equal blocks only a few. `alike`: for each kind
    of block, its places in `model` and its number in the real model. `weights`, `trained`: bytes of all
    blocks. `work`: products of a forward pass over one token, in the blocks and in the head.
    """

    model: nn.Module
    alike: list[tuple[list[int], int]]
    weights: int
    trained: int
    work: tuple[int, int]
    parameters: Any

    @property
    def places(self) -> list[list[int]]:
        """Of each kind of block, where in `model` there is one."""
        return [places for places, _ in self.alike]


def skeleton(source: Path | dict[str, Any], adapter: AdapterConfig) -> Skeleton:
    """The model of a folder, or of a config alone, with an adapter.

    Raises:
        DpoError: the adapter does not fit the model.
    """
    speed_up_products()
    model = _from_config(source) if isinstance(source, dict) else _from_folder(source)
    before = _kinds(model)
    attach_unevaluated(model, adapter)
    sizes = {name: v.nbytes for name, v in tree_flatten(model.parameters())}
    trained = sum(v.nbytes for _, v in tree_flatten(model.trainable_parameters()))
    active = getattr(getattr(model, "args", None), "num_experts_per_tok", None)
    inside = sum(_products(layer, active) for layer in model.layers)
    outside = _products(model, active) - inside
    if hasattr(model, "lm_head"):  # then the embedding is only looked up, not multiplied
        outside -= sum(m.weight.size for m in model.modules() if isinstance(m, nn.Embedding))
    work = (inside, max(0, outside))
    alike = _shorten(model, before)
    parameters = placeholders(model.parameters())
    model.update(parameters)
    checkpoint_layers(model)
    return Skeleton(model, alike, sum(sizes.values()) - trained, trained, work, parameters)


def _from_folder(folder: Path) -> nn.Module:
    from mlx_lm.utils import load_model

    if not files_in(folder, "model*.safetensors"):
        return _from_config(read_model_config(folder))
    return load_model(folder, lazy=True, model_config=read_model_config(folder))[0]


def _from_config(config: dict[str, Any]) -> nn.Module:
    """The model as mlx_lm would load it, in the config's dtype."""
    kind, arguments = model_classes(config)
    model = kind(arguments.from_dict(config))
    name = config.get("torch_dtype") or config.get("dtype") or "bfloat16"
    model.set_dtype(getattr(mx, name))
    if quantised := config.get("quantization"):
        nn.quantize(
            model,
            group_size=quantised["group_size"],
            bits=quantised["bits"],
            class_predicate=lambda _, m: (
                hasattr(m, "to_quantized") and m.weight.shape[-1] % quantised["group_size"] == 0
            ),
        )
    return model


def _products(module: nn.Module, active: int | None) -> int:
    """Multiplications of the matrices with one token's vector; of experts (E, out, in), `active` are used."""
    total = 0.0
    for part in module.modules():
        for name, value in part.items():
            if (
                isinstance(value, mx.array)
                and name in ("weight", "lora_a", "lora_b")
                and value.ndim in (2, 3)
            ):
                used = min(1.0, active / len(value)) if value.ndim == 3 and active else 1.0
                packed = 32 / part.bits if name == "weight" and hasattr(part, "bits") else 1
                total += used * packed * value.size
    return int(total)


def _shorten(model: nn.Module, own: list[Any]) -> list[tuple[list[int], int]]:
    """Leave out most of the equal blocks; give (places, real number) for each kind of block.

    Args:
        own: the kind of each block before the adapter was attached.
    """
    layers, adapted = list(model.layers), _kinds(model)
    # For a prompt, the last block computes only its state, so it needs less than others of its kind.
    adapted[-1] = ("last", adapted[-1])
    # Models choose their masks by their first blocks, so the beginning stays unchanged.
    start = max(own.index(kind) for kind in set(own)) + 1
    start = max(start, next((i + 1 for i in range(len(own)) if own[: i + 1].count(own[0]) == 3), start))
    kept = list(range(min(start, len(layers))))
    for kind in dict.fromkeys(adapted):
        places = [i for i, k in enumerate(adapted) if k == kind]
        missing = 2 - len(set(places) & set(kept))
        kept += [i for i in places if i not in kept][: max(0, missing)]
    kept.sort()
    if len(kept) < len(layers):
        holder = line_to(model, layers[0])[0]
        for name, value in holder.items():
            if isinstance(value, Sequence) and value and value[0] is layers[0]:
                holder[name] = [value[i] for i in kept]
    return [
        ([place for place, i in enumerate(kept) if adapted[i] == kind], adapted.count(kind))
        for kind in dict.fromkeys(adapted)
    ]


def _kinds(model: nn.Module) -> list[Any]:
    """The kind of each block: class, memory, switches (such as a sliding window), parameters."""
    layers = model.layers
    try:
        memories = [_remembers(memory) for memory in empty_state(model)]
    except (TypeError, AttributeError):
        memories = []
    if len(memories) != len(layers):
        memories = [()] * len(layers)
    return [
        (
            type(layer).__name__,
            memory,
            _switches(layer),
            tuple((n, v.shape, str(v.dtype)) for n, v in tree_flatten(layer.parameters())),
            tuple(n for n, _ in tree_flatten(layer.trainable_parameters())),
        )
        for layer, memory in zip(layers, memories, strict=True)
    ]  # fmt: skip


def _switches(layer: nn.Module) -> tuple:
    """What is true or false of the block and its parts."""
    parts = layer.named_modules()
    return tuple((n, k, v) for n, part in parts for k, v in vars(part).items() if type(v) is bool)


def _remembers(memory: Any) -> tuple:
    inner = [_remembers(c) for c in getattr(memory, "caches", ())]
    return (type(memory).__name__, getattr(memory, "window", None), *inner)
