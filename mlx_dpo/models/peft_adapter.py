"""Adapters that PEFT wrote, converted into adapters that mlx_lm reads.

PEFT                                             mlx_lm
base_model.model.P.lora_A.weight (r, in)         P.lora_a (in, r)
base_model.model.P.lora_B.weight (out, r)        P.lora_b (r, out)
base_model.model.P.lora_magnitude_vector (out,)  P.m (out,), of DoRA
lora_alpha / r, with rsLoRA lora_alpha / sqrt(r) scale

mlx_lm has one rank and one scale for all layers: lower ranks are filled with zeros, and B takes up another
scale. A layer that PEFT left out in some blocks gets zeros there, which training does not move.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..console import say
from ..errors import DpoError, first_ten, label, quoted
from ..storage.cache import kept
from ..storage.files import write_text
from ..storage.reading import files_in, is_there, read_object
from .adapters import CONFIG, WEIGHTS, read_adapter_config
from .config_files import read_model_config
from .fingerprint import files_hash
from .foreign_weights import PEFT_WEIGHTS, is_peft
from .hub_blocks import Blocks, blocks_of
from .peft_tensors import Part, halved, padded, trimmed
from .weights import check_tensors

SCALE = "mlx_dpo.scale"
"""Metadata of a file that this package exported: the scale of the adapter that it was made from."""
_COPY = "copy the adapter again"
_MERGE = (
    "merge it into its base model with PEFT (merge_and_unload, save_pretrained), and set model.path to the "
    "merged model"
)
_FIT = "use the model that the adapter was trained on"
_VERSION = 1
_KEYS = {"a": "lora_a", "b": "lora_b", "m": "m"}
_TENSOR = re.compile(
    r"base_model\.model\.(?:model|model\.language_model|language_model\.model)\.layers\.(\d+)\.(.+)"
    r"\.(lora_A|lora_B|lora_magnitude_vector)(?:\.weight)?"
)
_UNDERSTOOD = {
    *("peft_type", "peft_version", "task_type", "auto_mapping", "base_model_name_or_path", "revision"),
    *("inference_mode", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "lora_dropout", "bias"),
    *("init_lora_weights", "eva_config", "corda_config", "loftq_config", "lora_ga_config"),
    *("fan_in_fan_out", "megatron_config", "megatron_core", "qalora_group_size", "ensure_weight_tying"),
}
"""Settings of LoraConfig that are converted, or that do not change what the tensors compute."""
_IMPOSSIBLE = {
    "modules_to_save": "mlx_lm's adapters cannot replace whole weights",
    "target_parameters": "mlx_lm has other layers for experts",
    "trainable_token_indices": "mlx_lm's adapters cannot change single embeddings",
    "layer_replication": "mlx_lm cannot repeat blocks",
    "alora_invocation_tokens": "mlx_lm's adapters act on all tokens",
    "lora_bias": "mlx_lm's adapters have no bias",
}
"""Other settings, and why mlx_lm cannot compute such an adapter."""
_OWN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of init_lora_weights that do not change the weights of the base model."""


def check_adapter(adapter: Path | str) -> None:
    """Check what can be checked of an adapter without its base model.

    Raises:
        DpoError: the folder has no adapter, or one that mlx_lm cannot compute.
    """
    folder = Path(adapter)
    if is_peft(folder):
        _read_config(folder)
        check_tensors(_weights_file(folder), _COPY)
    else:
        read_adapter_config(folder)


def mlx_adapter(adapter: Path | str, base: Path) -> Path:
    """The folder of an adapter as mlx_lm reads it: the same folder, or a PEFT adapter converted in the cache.

    Args:
        base: the folder of the model that the adapter belongs to; only its config is read.

    Raises:
        DpoError: as `check_adapter`; or a PEFT adapter does not fit the model.
    """
    folder = Path(adapter)
    check_adapter(folder)
    if not is_peft(folder):
        return folder
    config, file = _read_config(folder), _weights_file(folder)
    blocks = blocks_of(read_model_config(base))
    key = {
        "adapter": files_hash(folder, file.name, CONFIG),
        "model_type": blocks.model_type,
        "layers": [sorted(layers.items()) for layers in blocks.layers],
        "version": _VERSION,
    }
    return kept(
        "peft", key, lambda beside: _convert(folder, file, config, blocks, beside), str(folder)
    ).folder


def _read_config(folder: Path) -> dict[str, Any]:
    """The adapter's config, without anything that mlx_lm could not compute.

    Raises:
        DpoError: it has something; the message gives the reason.
    """
    path = folder / CONFIG
    if not is_there(path):
        raise DpoError(f"is a PEFT adapter without {CONFIG}", where=folder, hint=_COPY)
    config = read_object(path, _COPY)
    if config.get("peft_type") != "LORA":
        raise _refused(f"peft_type is {quoted(config.get('peft_type'))}: only LORA can be converted", path)
    for name, value in config.items():
        if value and name not in _UNDERSTOOD:
            reason = _IMPOSSIBLE.get(name, "it is not known how this changes what an adapter computes")
            raise _refused(f"{label(name)} is {quoted(value)}: {reason}", path)
    if config.get("bias", "none") != "none":
        raise _refused(f"bias is {quoted(config['bias'])}: mlx_lm's adapters do not change biases", path)
    start = config.get("init_lora_weights")
    if not isinstance(start, bool | str | None) or start not in _OWN_STARTS:
        raise _refused(
            f"init_lora_weights is {quoted(start)}: such an adapter changes the weights of its base model",
            path,
            f"save it with path_initial_model_for_weight_conversion, or {_MERGE}",
        )
    for name in ("r", "lora_alpha"):
        if not _is_positive(config.get(name)):
            raise _refused(f"{name} is {quoted(config.get(name))}, not a number above 0", path, _COPY)
    for name in ("rank_pattern", "alpha_pattern"):
        pattern = config.get(name) or {}
        if not isinstance(pattern, dict) or not all(map(_is_positive, pattern.values())):
            raise _refused(f"{name} is {quoted(pattern)}, not an object of numbers above 0", path, _COPY)
    return config


def _refused(what: str, where: Path | str, hint: str = _MERGE) -> DpoError:
    return DpoError(what, where=where, hint=hint)


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e9


def _weights_file(folder: Path) -> Path:
    """The file of the adapter's weights; some programs rename it as mlx_lm calls it."""
    for name in (PEFT_WEIGHTS[0], WEIGHTS):
        if is_there(folder / name):
            return folder / name
    if files_in(folder, "*.bin"):
        raise DpoError(
            "has its weights in a .bin file, which may contain code and is never opened",
            where=folder,
            hint="with PEFT installed, load it and save it again: save_pretrained writes safetensors",
        )
    raise DpoError(f"is a PEFT adapter without {PEFT_WEIGHTS[0]}", where=folder, hint=_COPY)


def _convert(
    folder: Path, file: Path, config: dict[str, Any], blocks: Blocks, beside: Path
) -> dict[str, Any]:
    """Write the adapter as mlx_lm's into the folder `beside`."""
    check_tensors(file, _COPY)
    tensors, about = mx.load(str(file), return_metadata=True)
    found = _parts(tensors, blocks, file)
    ratios = {place: _scale(config, place, part, file) for place, part in found.items()}
    scale = _common_scale(list(ratios.values()), about)
    parts: dict[tuple[int, str], Part] = {}
    for (block, name), part in found.items():
        factor = _exact(ratios[block, name] / scale)
        b = part.b if factor == 1 else part.b.astype(mx.float32) * factor
        layers = blocks.from_hub(block)[name]
        own = {0: trimmed(part._replace(b=b))}
        if len(layers) == 2:
            own = halved(own[0], [blocks.layers[block][layer][0] for layer in layers])
        parts |= {(block, layers[number]): half for number, half in own.items()}
    dora = bool(config.get("use_dora"))
    whole, missing = _in_all_blocks(parts, blocks)
    if dora and missing:
        raise _refused(
            f"has no DoRA for {first_ten(missing)}; in mlx_lm, it has one for this layer in all later blocks",
            file,
        )
    rank = max(1, *(part.rank for part in parts.values()))
    arrays = {}
    for (block, name), part in whole.items():
        for key, value in padded(part, rank)._asdict().items():
            if value is not None:
                arrays[f"model.layers.{block}.{name}.{_KEYS[key]}"] = value
    mx.save_safetensors(str(beside / WEIGHTS), arrays, metadata={"format": "mlx"})
    first = min(block for block, _ in parts)
    content = {
        "fine_tune_type": "dora" if dora else "lora",
        "num_layers": -1 if first == 0 else len(blocks.layers) - first,
        "lora_parameters": {
            "rank": rank,
            "scale": scale,
            "dropout": 0.0,
            "keys": sorted({name for _, name in parts}),
        },
        "model": str(config.get("base_model_name_or_path") or ""),
    }
    write_text(beside / CONFIG, json.dumps(content, indent=1) + "\n")
    kind = "DoRA" if dora else "LoRA"
    say(f"adapter: {folder} is a PEFT adapter ({kind}); converted to rank {rank}, scale {scale:g}")
    return {}


def _parts(tensors: Mapping[str, mx.array], blocks: Blocks, file: Path) -> dict[tuple[int, str], Part]:
    """{(block, name on the Hub): its part}.

    Raises:
        DpoError: a tensor has an unknown name or a wrong shape, or is missing.
    """
    arrays: dict[tuple[int, str], dict[str, mx.array]] = {}
    unknown = []
    for name, value in sorted(tensors.items()):
        match = _TENSOR.fullmatch(name)
        block = int(match[1]) if match else -1
        if not match or block >= len(blocks.layers) or match[2] not in blocks.from_hub(block):
            unknown.append(label(name))
            continue
        arrays.setdefault((block, match[2]), {})[match[3]] = value
    if unknown:
        raise _refused(
            f"has tensors that are not of a linear layer in the model's blocks: {first_ten(unknown)}", file
        )
    if not arrays:
        raise _refused("has no tensors", file, _COPY)
    return {place: _part(place, own, blocks, file) for place, own in arrays.items()}


def _part(place: tuple[int, str], own: Mapping[str, mx.array], blocks: Blocks, file: Path) -> Part:
    block, name = place
    layers = [blocks.layers[block][layer] for layer in blocks.from_hub(block)[name]]
    outputs, inputs = sum(out for out, _ in layers), layers[0][1]
    if missing := [key for key in ("lora_A", "lora_B") if key not in own]:
        raise _refused(f"has no {missing[0]} of block {block}, {name}", file, _COPY)
    rank = own["lora_A"].shape[0]
    wanted = {"lora_A": (rank, inputs), "lora_B": (outputs, rank), "lora_magnitude_vector": (outputs,)}
    for key, value in own.items():
        if value.shape != wanted[key]:
            raise _refused(
                f"{key} of block {block}, {name} has the shape {value.shape}; this model needs {wanted[key]}",
                file,
                _FIT,
            )
    return Part(own["lora_A"].T, own["lora_B"].T, own.get("lora_magnitude_vector"))


def _scale(config: Mapping[str, Any], place: tuple[int, str], part: Part, file: Path) -> float:
    """The factor of a layer's update, as PEFT computes it.

    Raises:
        DpoError: the rank or the magnitude is not what the config says.
    """
    name = f"model.layers.{place[0]}.{place[1]}"
    rank = _by_pattern(config, "rank_pattern", name, config["r"])
    if rank != part.rank:
        raise _refused(f"{name} has rank {part.rank}, but {CONFIG} says {rank:g}", file, _COPY)
    if bool(config.get("use_dora")) != (part.m is not None):
        has = "no magnitude" if part.m is None else "a magnitude"
        raise _refused(f"{name} has {has}, but use_dora is {bool(config.get('use_dora'))}", file, _COPY)
    alpha = _by_pattern(config, "alpha_pattern", name, config["lora_alpha"])
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _by_pattern(config: Mapping[str, Any], pattern: str, name: str, usual: float) -> float:
    """The value of the first regular expression that fits a layer's name, as PEFT looks it up."""
    for expression, value in (config.get(pattern) or {}).items():
        try:
            if re.match(rf"(.*\.)?({expression})$", name):
                return value
        except re.error:
            raise _refused(f"{pattern} has {quoted(expression)}, not a regular expression", CONFIG) from None
    return usual


def _common_scale(scales: Sequence[float], about: Mapping[str, str]) -> float:
    """The scale of most layers; of an adapter that this package exported, the scale that it had before."""
    most = max(set(scales), key=lambda one: (scales.count(one), one))
    try:
        own = float(about.get(SCALE, "nan"))
    except ValueError:
        return most
    return own if own > 0 and math.log2(_exact(most / own)).is_integer() else most


def _exact(factor: float) -> float:
    """A factor without the rounding error of a power of two."""
    power = 2.0 ** round(math.log2(factor))
    return power if math.isclose(factor, power, rel_tol=1e-12) else factor


def _in_all_blocks(
    parts: Mapping[tuple[int, str], Part], blocks: Blocks
) -> tuple[dict[tuple[int, str], Part], list[str]]:
    """The parts, with zeros for layers that are adapted in other blocks only, and the names of these."""
    whole, missing = {}, []
    first = min(block for block, _ in parts)
    for block in range(first, len(blocks.layers)):
        for name in sorted({name for _, name in parts} & blocks.layers[block].keys()):
            outputs, inputs = blocks.layers[block][name]
            if (block, name) not in parts:
                missing.append(f"{name} of block {block}")
            none = Part(mx.zeros((inputs, 0)), mx.zeros((0, outputs)))
            whole[block, name] = parts.get((block, name), none)
    return whole, missing
