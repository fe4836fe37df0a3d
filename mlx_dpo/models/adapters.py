"""LoRA, DoRA and full training: attach, freeze, save, load."""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..errors import DpoError, first_line, first_ten, label, quoted
from ..settings import Section, setting
from ..storage.files import with_replacement, write_text
from ..storage.reading import check_name, is_folder, is_there, path_text, read_object
from ..upstream import complete_module
from .adapter_checksum import UNSTAMPED, check_config, check_weights, stamp_weights, stamped
from .foreign_weights import check_adapter_weights, check_not_peft
from .weights import check_tensors

WEIGHTS, CONFIG = "adapters.safetensors", "adapter_config.json"
_FIT_HINT = "use the model that the adapter was trained on"
_COPY = "copy the whole run folder again"


@dataclass(frozen=True)
class AdapterConfig(Section):
    """The adapter that is trained."""

    type: str = setting(
        "lora",
        "lora; dora: LoRA with a trained magnitude, slower; full: train all weights of the blocks",
        choices=("lora", "dora", "full"),
        meant={"qlora": "QLoRA is lora on a 4-bit copy of the model (model.path);"},
        also={
            "adapter fine_tune_type finetuning_type train_type peft_type": "",
            "use_dora": "set it to dora.",
        },
    )
    rank: int = setting(
        16,
        "rank of the update; a higher rank can learn more and needs more memory",
        least=1,
        most=65_536,
        also="r lora_r lora_rank",
    )
    scale: float = setting(
        2.0,
        "factor of the update scale · A · B (used directly, not alpha / rank)",
        above=0,
        most=1000,
        also={
            "lora_scale": "",
            "lora_alpha alpha": "scale = lora_alpha / rank.",
            "use_rslora": "scale = lora_alpha / the square root of rank.",
        },
    )
    dropout: float = setting(
        0.0, "dropout on the inputs of A during training", least=0, below=1, also="lora_dropout"
    )
    layers: int = setting(
        -1,
        "number of adapted blocks, counted from the last; -1: all",
        least=-1,
        most=100_000,
        also="lora_layers num_layers num_lora_layers",
    )
    targets: str | list[str] = setting(
        "all",
        "all: every linear layer of a block; or a list of layer names such as [q_proj, mamba.in_proj]",
        also="target_modules lora_target lora_target_modules lora_modules keys",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.layers == 0:
            raise ValueError(f"layers must be -1 or at least 1, got {self.layers}")
        if not self.targets or (isinstance(self.targets, str) and self.targets != "all"):
            raise ValueError(f"targets must be all or a list of layer names, got {quoted(self.targets)}")


def attach(model: nn.Module, config: AdapterConfig) -> None:
    """Freeze the model and make what `config` names trainable, in float32 whatever the model's dtype.

    A is drawn from `mx.random`, B is 0. Full training converts its blocks to float32 too: half precision
    cannot add updates as small as those of preference training to a weight.

    Raises:
        DpoError: the model has no such target, or a kind of layer that this adapter does not support.
    """
    attach_unevaluated(model, config)
    if config.type != "full":
        mx.eval(model.parameters())


def attach_unevaluated(model: nn.Module, config: AdapterConfig) -> None:
    """As `attach`, without loading any array into memory."""
    check_attachable(model, config)
    complete_module(model)  # some classes of mlx_lm are incomplete
    model.freeze()
    if config.type == "full":
        for block in _blocks(model, config):
            block.unfreeze()
            block.set_dtype(mx.float32)
        return
    from mlx_lm.tuner.utils import linear_to_lora_layers

    try:
        linear_to_lora_layers(
            model, config.layers, _lora_parameters(model, config), use_dora=config.type == "dora"
        )
    except ValueError as error:
        raise DpoError(str(error), where="adapter.type", hint="set adapter.type=lora") from None


def check_attachable(model: nn.Module, config: AdapterConfig) -> None:
    """Check that the model has what `config` names, without changing it.

    Raises:
        DpoError: the model has no such target, or quantised weights that this adapter does not support.
    """
    if config.type != "full":
        _lora_parameters(model, config)
    bits = {m.bits for block in _blocks(model, config) for m in block.modules() if hasattr(m, "bits")}
    if config.type == "dora" and any(32 % b for b in bits):
        raise DpoError(
            "mlx_lm does not support DoRA for weights of 3, 5 or 6 bits",
            where="adapter.type",
            hint="set adapter.type=lora, or set model.path to a 4-bit or 8-bit copy of the model",
        )
    if config.type == "full" and bits:
        raise DpoError(
            "adapter.type=full cannot train quantised weights",
            where="adapter.type",
            hint="set adapter.type=lora, or set model.path to the model before quantisation",
        )


def _blocks(model: nn.Module, config: AdapterConfig) -> list[nn.Module]:
    return model.layers if config.layers == -1 else model.layers[-config.layers :]


def _lora_parameters(model: nn.Module, config: AdapterConfig) -> dict[str, Any]:
    blocks = _blocks(model, config)
    linear = {name for block in blocks for name, m in block.named_modules() if _is_linear(m)}
    linear = sorted(linear - _read_elsewhere(model, blocks))
    if config.targets == "all":
        keys = linear
    else:
        keys = [n for n in linear if n in config.targets or n.rsplit(".", 1)[-1] in config.targets]
        missing = [t for t in config.targets if not any(t in (n, n.rsplit(".", 1)[-1]) for n in linear)]
        if missing:
            raise DpoError(
                f"this model has no layer named {first_ten([label(name) for name in missing])}",
                where="adapter.targets",
                hint=f"its blocks have the layers {', '.join(linear)}",
            )
    return {"rank": config.rank, "scale": config.scale, "dropout": config.dropout, "keys": keys}


def _read_elsewhere(model: nn.Module, blocks: Sequence[nn.Module]) -> set[str]:
    """Linear layers whose weight the model's code reads directly: it would not find it inside an adapter.

    The model's call is only traced, not computed.
    """
    read: set[str] = set()
    layers = [(name, m) for block in blocks for name, m in block.named_modules() if isinstance(m, nn.Linear)]
    kinds = [type(layer) for _, layer in layers]
    for (name, layer), kind in zip(layers, kinds, strict=True):
        weight = property(lambda self, name=name: read.add(name) or self["weight"])
        layer.__class__ = type(kind.__name__, (kind,), {"weight": weight})
    try:
        model(mx.zeros((1, 2), mx.int32))
    finally:
        for (_, layer), kind in zip(layers, kinds, strict=True):
            layer.__class__ = kind
    return read


def _is_linear(module: nn.Module) -> bool:
    from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

    return isinstance(module, (nn.Linear, nn.QuantizedLinear, SwitchLinear, QuantizedSwitchLinear))


def trainable(model: nn.Module) -> dict[str, mx.array]:
    """All trainable arrays by name."""
    return dict(tree_flatten(model.trainable_parameters()))


def adapted_table(model: nn.Module) -> list[tuple[str, int, int]]:
    """(layer's name inside a block, number of blocks, trained parameters), one row per kind of layer."""
    blocks: dict[str, set[str]] = defaultdict(set)
    sizes: dict[str, int] = defaultdict(int)
    for name, value in trainable(model).items():
        path = name.rsplit(".", 1)[0].split(".")
        index = next(i for i, part in enumerate(path) if part.isdigit())
        kind = ".".join(path[index + 1 :])
        blocks[kind].add(path[index])
        sizes[kind] += value.size
    return [(kind, len(blocks[kind]), sizes[kind]) for kind in sorted(blocks)]


def save_adapter_config(
    model: nn.Module, config: AdapterConfig, base: str, folder: Path, also: Mapping[str, Any] | None = None
) -> None:
    """Write adapter_config.json as mlx_lm reads it, with the base model's name and the values of `also`."""
    lora = {} if config.type == "full" else _lora_parameters_of(model, config)
    content = {
        "fine_tune_type": config.type,
        "num_layers": config.layers,
        "lora_parameters": lora,
        "model": base,
        **(also or {}),
    }
    write_text(folder / CONFIG, json.dumps(stamped(content), indent=1) + "\n")


def _lora_parameters_of(model: nn.Module, config: AdapterConfig) -> dict[str, Any]:
    """As `_lora_parameters`, for a model that already has its adapter."""
    keys = sorted({name for block in model.layers for name, m in block.named_modules() if "lora_a" in m})
    return {"rank": config.rank, "scale": config.scale, "dropout": config.dropout, "keys": keys}


def save_adapter_weights(model: nn.Module, folder: Path, first: Callable[[], None] = lambda: None) -> None:
    """Write adapters.safetensors with its checksum: write beside, fsync, call `first()`, rename.

    Raises:
        DpoError: a number is not finite; the earlier file is unchanged.
    """
    weights = trainable(model)
    if not mx.all(mx.stack([mx.isfinite(w).all() for w in weights.values()])).item():
        raise DpoError(
            "the adapter contains numbers that are not finite",
            where=folder,
            hint="lower optimizer.learning_rate; the run folder still has the last good adapter",
        )

    def write(path: Path) -> None:
        mx.save_safetensors(str(path), weights, metadata=UNSTAMPED)
        stamp_weights(path)

    with_replacement(folder / WEIGHTS, write, first)


def read_adapter_config(folder: Path | str) -> AdapterConfig:
    """The settings of the adapter in a folder; dropout is 0, because every run has its own.

    Raises:
        DpoError: the folder has no adapter, or one that mlx_lm cannot load, or a file changed, see `stamped`.
    """
    folder = Path(folder)
    check_name(folder)
    content = _read_content(folder)
    weights = check_tensors(folder / WEIGHTS, _COPY)
    try:
        own = _as_config(content, weights)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else first_line(error)
        raise DpoError(
            f"is not an adapter that mlx_lm can load: {reason}", where=folder / CONFIG, hint=_COPY
        ) from None
    check_config(content, folder / CONFIG)
    check_weights(folder / WEIGHTS)
    return own


def _read_content(folder: Path) -> dict[str, Any]:
    """The content of adapter_config.json, if the folder has all files of an mlx_lm adapter."""
    hint = "give the run folder of a finished training run"
    if not is_folder(folder):
        what = "is a file, not an adapter folder" if is_there(folder) else "no such folder"
        raise DpoError(what, where=path_text(folder), hint=hint)
    content = read_object(folder / CONFIG, _COPY) if is_there(folder / CONFIG) else None
    check_not_peft(folder)
    if not is_there(folder / WEIGHTS):
        check_adapter_weights(folder)
    for name in (CONFIG, WEIGHTS):
        if not is_there(folder / name):
            raise DpoError(f"is not an adapter folder: it has no {name}", where=folder, hint=hint)
    return content or {}


def _as_config(content: Mapping[str, Any], weights: Mapping[str, mx.array]) -> AdapterConfig:
    """The settings in an adapter_config.json.

    Raises:
        KeyError, TypeError, ValueError: a setting is missing, has a wrong type, or does not fit the weights.
    """
    kind = content.get("fine_tune_type", "lora")
    if kind not in ("lora", "dora", "full"):
        raise ValueError(f"its fine_tune_type is {quoted(kind)}")
    own = {"type": kind, "layers": _of_kind("num_layers", content["num_layers"], int)}
    if kind != "full":
        lora = _of_kind("lora_parameters", content.get("lora_parameters") or {}, dict)
        own["rank"] = _of_kind("rank", lora["rank"], int)
        own["scale"] = float(_of_kind("scale", lora["scale"], int, float))
        dropout = _of_kind("dropout", lora.get("dropout", 0.0), int, float)
        if not 0 <= dropout < 1:  # mlx_lm would refuse it
            raise ValueError(f"dropout must be at least 0 and below 1, got {quoted(dropout)}")
        own["targets"] = _of_kind("keys", lora.get("keys") or "all", list, str)
        if not all(isinstance(name, str) for name in own["targets"]):
            raise TypeError(f"keys is {quoted(own['targets'])}, not a list of layer names")
        shapes = {name: w.shape for name, w in weights.items() if name.endswith("lora_a")}
        if not shapes:
            raise ValueError(f"{WEIGHTS} has no lora_a")
        for name, shape in sorted(shapes.items()):
            if own["rank"] not in shape:
                raise ValueError(f"its rank is {quoted(own['rank'])}, but {name} has the shape {shape}")
        if not math.isfinite(own["scale"]):
            raise ValueError(f"scale must be a number, got {quoted(own['scale'])}")
    return AdapterConfig(**own)


def _of_kind(name: str, value: Any, *kinds: type) -> Any:
    if not isinstance(value, kinds) or isinstance(value, bool):
        words = {int: "a whole number", float: "a number", dict: "an object", list: "a list", str: "a list"}
        raise TypeError(f"{name} is {quoted(value)}, not {words[kinds[-1]]}")
    return value


def load_adapter(model: nn.Module, folder: Path | str, dropout: float = 0.0) -> None:
    """Attach the adapter in `folder` to a frozen `model` and load its weights, which become trainable.

    They are float32, whatever dtype they were saved in, as in `attach`.

    Raises:
        DpoError: as `attach_like`.
    """
    weights, live = attach_like(model, folder, dropout), trainable(model)
    model.load_weights([(n, w.astype(live[n].dtype)) for n, w in weights.items()], strict=False)
    mx.eval(model.parameters())


def attach_like(model: nn.Module, folder: Path | str, dropout: float = 0.0) -> dict[str, mx.array]:
    """As `fitting_weights`; what was attached is then in memory."""
    weights = fitting_weights(model, folder, dropout)
    mx.eval(model.parameters())
    return weights


def fitting_weights(model: nn.Module, folder: Path | str, dropout: float = 0.0) -> dict[str, mx.array]:
    """Attach an adapter like that in `folder`, unless the model has one; return its arrays, not loaded yet.

    Raises:
        DpoError: names or shapes do not fit the model; the first ten are listed.
    """
    config = replace(read_adapter_config(folder), dropout=dropout)
    if not any("lora_a" in m for m in model.modules()):
        try:
            attach_unevaluated(model, config)
        except DpoError as error:
            what = f"this adapter does not fit: {error.what}"
            raise error.instead(what=what, where=str(folder), hint=_FIT_HINT) from None
    weights = check_tensors(Path(folder) / WEIGHTS, _COPY)
    live = trainable(model)
    shapes = {
        n: (w.shape, live[n].shape) for n, w in weights.items() if n in live and live[n].shape != w.shape
    }
    wrong = sorted({*shapes, *(weights.keys() ^ live.keys())})
    if wrong:
        first = next(iter(sorted(shapes)), None)
        told = f"; {first} has the shape {shapes[first][0]}, in the model {shapes[first][1]}" if first else ""
        base = read_object(Path(folder) / CONFIG, _COPY).get("model")
        of = f": {path_text(base)}" if isinstance(base, str) and base else ""
        raise DpoError(
            f"this adapter does not fit the model: {first_ten(wrong)}{told}",
            where=folder,
            hint=f"{_FIT_HINT}{of}",
        )
    return weights
