"""Weights with the names and axes that a model has on the Hub: the exact inverse of mlx_lm's loading.

mlx_lm renames, splits and turns some weights of Granite models when it loads them, and leaves out weights
that it does not use. Other programs need them as they were.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..errors import DpoError, first_ten, quoted
from ..models.hub_blocks import RENAMED
from ..storage.reading import files_in
from ..upstream import model_classes
from .read_back import same_bits

KNOWN = (
    *("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gemma3"),
    *("granite", "granitemoe", "granitemoehybrid"),
)
"""Model types whose mlx names are the Hub's, apart from `_RENAMED`."""

_RENAMED = {
    **{f".{ours}.": (f".{theirs}.", half or 0) for ours, (theirs, half) in RENAMED.items()},
    ".block_sparse_moe.switch_mlp.gate_proj.": (".block_sparse_moe.input_linear.", 0),
    ".block_sparse_moe.switch_mlp.up_proj.": (".block_sparse_moe.input_linear.", 1),
    ".block_sparse_moe.switch_mlp.down_proj.": (".block_sparse_moe.output_linear.", 0),
}
"""Granite's names in mlx_lm: the name on the Hub, and which half of that tensor it is."""
_JOINED = ("granitemoe", "granitemoehybrid")
_COMPUTED = re.compile(r"rotary_emb\.inv_freq$")
_HUB = "set model.path to the model as its authors published it, or give that folder with --model"


class BaseTensors(NamedTuple):
    """The tensors in a model's files, not loaded yet.

    `converted`: mlx_lm wrote these files, so axes may be those of mlx. `quantised`: shapes are packed.
    """

    tensors: dict[str, mx.array]
    converted: bool
    quantised: bool


def base_tensors(folder: Path) -> BaseTensors:
    """The tensors of a model's folder."""
    tensors: dict[str, mx.array] = {}
    converted = False
    for file in files_in(folder, "model*.safetensors"):
        part, about = mx.load(str(file), return_metadata=True)
        tensors |= part
        converted |= about.get("format") == "mlx"
    return BaseTensors(tensors, converted, any(map(_packing, tensors)))


def _packing(name: str) -> bool:
    """Whether a tensor belongs to a quantised weight."""
    return name.endswith((".scales", ".biases"))


def hub_name(model_type: str, name: str) -> tuple[str, int]:
    """The name on the Hub of a weight of mlx_lm's model, and which part of that tensor it is.

    granitemoehybrid, model.layers.3.mlp.up_proj.weight -> model.layers.3.shared_mlp.input_linear.weight, 1
    """
    if model_type in _JOINED:
        for ours, (theirs, half) in _RENAMED.items():
            if ours in name:
                return name.replace(ours, theirs), half
    return name, 0


class HubTensors(Mapping[str, mx.array]):
    """Tensors by their names on the Hub, with the bits of the weights they are made from.

    Gate and up projection are joined along the rows, (F, D) twice to (2F, D), or (E, F, D) to (E, 2F, D);
    the kernel of a convolution becomes (C, 1, K). Each is made when it is asked for and not kept.
    """

    def __init__(self, model_type: str, weights: Mapping[str, mx.array]):
        self._turned = model_type in _JOINED
        self._parts: dict[str, dict[int, mx.array]] = {}
        for name, value in weights.items():
            theirs, half = hub_name(model_type, name)
            self._parts.setdefault(theirs, {})[half] = value

    def forget(self) -> None:
        """Keep no weights any more, so that a model that changes does not stay here as it was."""
        self._parts.clear()

    def __getitem__(self, name: str) -> mx.array:
        halves = [value for _, value in sorted(self._parts[name].items())]
        value = (
            halves[0] if len(halves) == 1 else mx.concatenate(halves, axis=0 if halves[0].ndim == 1 else -2)
        )
        if self._turned and name.endswith("conv1d.weight"):
            return mx.contiguous(value.swapaxes(1, 2))
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def add(self, others: Mapping[str, mx.array]) -> None:
        """Add tensors that are as on the Hub already."""
        self._parts |= {name: {0: value} for name, value in others.items()}


def hub_tensors(model: nn.Module, config: Mapping[str, Any], base: BaseTensors, where: Path) -> HubTensors:
    """All tensors of a model folder on the Hub: those of the model, and those of the base that it lacks.

    A second copy of tied embeddings and tables that are computed are left out, as transformers does.

    Args:
        model: plain weights, nothing quantised.
        config: the base's config.json.
        base: the base's tensors.
        where: the base's folder, for messages.

    Raises:
        DpoError: the tensors do not have the names and shapes of the base, or mlx_lm would not read them back
            as the same model.
    """
    others = check_layout(model, config, base, where)
    tensors = HubTensors(str(config.get("model_type")), dict(tree_flatten(model.parameters())))
    check_read_back(model, config, tensors.items(), where)
    tensors.add(others)
    return tensors


def check_layout(
    model: nn.Module, config: Mapping[str, Any], base: BaseTensors, where: Path
) -> dict[str, mx.array]:
    """Check by names and shapes that the Hub's layout of this base is known; no weights are read.

    Args:
        model: the base, with or without an adapter in its weights; it may be quantised.
        config: the base's config.json.
        base: the base's tensors.
        where: the base's folder, for messages.

    Returns:
        The tensors of the base that mlx_lm does not load.

    Raises:
        DpoError: the tensors do not have the names and shapes of the base, or mlx_lm has converted the base
            and its layout is not known.
    """
    kind = str(config.get("model_type"))
    if base.converted and kind not in KNOWN:
        raise DpoError(
            f"the Hub's layout of {quoted(kind)} is not known, and mlx_lm has converted these files",
            where=where,
            hint=f"known are {', '.join(KNOWN)}; for others, {_HUB}",
            code="unknown-layout",
        )
    weights = {name: value for name, value in tree_flatten(model.parameters()) if not _packing(name)}
    tensors = HubTensors(kind, weights)
    _check_names(kind, tensors, base, where)
    return _others(kind, config, tensors, base, where)


def _check_names(kind: str, tensors: Mapping[str, mx.array], base: BaseTensors, where: Path) -> None:
    names = {hub_name(kind, name)[0] for name in base.tensors}
    if unknown := sorted(tensors.keys() - names):
        raise DpoError(
            f"has no tensors with the names {first_ten(unknown)}, which the fused model would have",
            where=where,
            hint=f"mlx_lm renames tensors of this architecture; known are {', '.join(KNOWN)}",
            code="unknown-tensor",
        )
    if base.converted or base.quantised:
        return
    shapes = [n for n, value in tensors.items() if n in base.tensors and base.tensors[n].shape != value.shape]
    if shapes:
        raise DpoError(
            f"has other shapes in {first_ten(sorted(shapes))} than the fused model",
            where=where,
            hint=f"mlx_lm changes tensors of this architecture; known are {', '.join(KNOWN)}",
            code="unknown-tensor",
        )


def check_read_back(
    model: nn.Module, config: Mapping[str, Any], tensors: Iterable[tuple[str, mx.array]], where: Path
) -> None:
    """Check that mlx_lm reads the tensors as this model, bit for bit.

    Args:
        tensors: names and arrays. An array is freed when it was compared, unless the caller keeps it.

    Raises:
        DpoError: names the tensors that differ.
    """
    wanted = dict(tree_flatten(model.parameters()))
    kind, arguments = model_classes(config)
    reader = kind(arguments.from_dict(dict(config)))
    read = dict(tensors)
    if hasattr(reader, "sanitize"):
        read = reader.sanitize(read)
    names = sorted(wanted.keys() | read.keys())
    differ = [n for n in names if not same_bits(wanted.get(n), read.pop(n, None))]
    if differ:
        raise DpoError(
            f"mlx_lm would not read these tensors back as they are: {first_ten(differ)}",
            where=where,
            hint="this architecture cannot be exported; please report it with this message",
            code="not-read-back",
        )


def _others(
    kind: str, config: Mapping[str, Any], tensors: Mapping[str, mx.array], base: BaseTensors, where: Path
) -> dict[str, mx.array]:
    """Tensors of the base that mlx_lm does not load, such as the part of a model that reads images."""
    text = config.get("text_config") or {}
    tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings", "gemma" in kind))
    others = {
        name: value
        for name, value in base.tensors.items()
        if hub_name(kind, name)[0] not in tensors
        and not _COMPUTED.search(name)
        and not _packing(name)
        and not (tied and name.endswith("lm_head.weight"))
    }
    if others and base.converted:
        raise DpoError(
            f"has tensors that mlx_lm does not use, in an unknown layout: {first_ten(sorted(others))}",
            where=where,
            hint=_HUB,
            code="unknown-tensor",
        )
    return others
