"""LoRA, DoRA and full training: attach, freeze, save, load."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..errors import DpoError, first_line, first_ten
from ..files import with_replacement, write_text
from ..settings import setting
from .load import check_tensors
from .stamp import UNSTAMPED, check_config, check_weights, stamp_weights, stamped

WEIGHTS, CONFIG = "adapters.safetensors", "adapter_config.json"
_FIT_HINT = "use the model the adapter was trained on"


@dataclass(frozen=True)
class AdapterConfig:
    """What is trained."""

    type: str = setting(
        "lora",
        "lora; dora (lora with a trained magnitude, slower); full (the blocks' own weights)",
        choices=("lora", "dora", "full"),
    )
    rank: int = setting(16, "width of the low-rank update; more can learn more and costs memory")
    scale: float = setting(2.0, "the update is scale · A · B; a direct factor, not alpha / rank")
    dropout: float = setting(0.0, "share of inputs dropped before A while training")
    layers: int = setting(-1, "adapt the last so many blocks; -1 adapts all")
    targets: str | list[str] = setting(
        "all", "all linear layers of a block, or a list of their names such as [q_proj, mamba.in_proj]"
    )

    def __post_init__(self):
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, got {self.rank}")
        if not self.scale > 0:
            raise ValueError(f"scale must be above 0, got {self.scale}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if self.layers == 0 or self.layers < -1:
            raise ValueError(f"layers must be -1 or at least 1, got {self.layers}")
        if not self.targets or (isinstance(self.targets, str) and self.targets != "all"):
            raise ValueError(f"targets must be all or a list of layer names, got {self.targets!r}")


def attach(model: nn.Module, config: AdapterConfig) -> None:
    """Freeze the model and make what `config` names trainable, in float32 whatever the model's dtype.

    A is drawn from `mx.random`, B is 0. Full training turns its blocks to float32 too: preference updates are
    smaller than half precision can add to a weight.

    Raises:
        DpoError: a target the model does not have, or a kind of layer that cannot be adapted so.
    """
    attach_unevaluated(model, config)
    if config.type != "full":
        mx.eval(model.parameters())


def attach_unevaluated(model: nn.Module, config: AdapterConfig) -> None:
    """As `attach`, without bringing any array into memory."""
    check_attachable(model, config)
    if not hasattr(model, "_no_grad"):  # some of mlx_lm's classes leave this out
        nn.Module.__init__(model)
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
        DpoError: a target the model does not have, or quantised weights that this adapter cannot take.
    """
    if config.type != "full":
        _lora_parameters(model, config)
    bits = {m.bits for block in _blocks(model, config) for m in block.modules() if hasattr(m, "bits")}
    if config.type == "dora" and any(32 % b for b in bits):
        raise DpoError(
            "mlx_lm has no DoRA for weights of 3, 5 or 6 bits",
            where="adapter.type",
            hint="set adapter.type=lora, or model.path to a 4-bit or 8-bit copy",
        )
    if config.type == "full" and bits:
        raise DpoError(
            "full training cannot change quantised weights",
            where="adapter.type",
            hint="set adapter.type=lora, or model.path to the model before quantisation",
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
                f"this model has no layer named {first_ten(missing)}",
                where="adapter.targets",
                hint=f"its blocks have {', '.join(linear)}",
            )
    return {"rank": config.rank, "scale": config.scale, "dropout": config.dropout, "keys": keys}


def _read_elsewhere(model: nn.Module, blocks: Sequence[nn.Module]) -> set[str]:
    """Linear layers whose weight the model's own code reads: it would not find it inside an adapter.

    The model's call is only traced here, not computed.
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
    """Name to array of everything that is trained."""
    return dict(tree_flatten(model.trainable_parameters()))


def adapted_table(model: nn.Module) -> list[tuple[str, int, int]]:
    """(layer's name inside a block, number of blocks, trained parameters), one row a kind of layer."""
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
    """Write adapter_config.json as mlx_lm reads it, with the base model's name beside it, and `also`."""
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
    """As `_lora_parameters`, of a model whose adapter is attached already."""
    keys = sorted({name for block in model.layers for name, m in block.named_modules() if "lora_a" in m})
    return {"rank": config.rank, "scale": config.scale, "dropout": config.dropout, "keys": keys}


def save_adapter_weights(model: nn.Module, folder: Path, first: Callable[[], None] = lambda: None) -> None:
    """Write adapters.safetensors whole, with its checksum: beside, fsync, then `first()`, rename.

    Raises:
        DpoError: a number that is not finite; what was there before is untouched.
    """
    weights = trainable(model)
    if not mx.all(mx.stack([mx.isfinite(w).all() for w in weights.values()])).item():
        raise DpoError(
            "the adapter holds numbers that are not finite",
            where=folder,
            hint="lower optimizer.learning_rate; the run folder holds the last good adapter",
        )

    def write(path: Path) -> None:
        mx.save_safetensors(str(path), weights, metadata=UNSTAMPED)
        stamp_weights(path)

    with_replacement(folder / WEIGHTS, write, first)


def read_adapter_config(folder: Path | str) -> AdapterConfig:
    """The settings that an adapter folder's weights were made with; dropout, which is a run's own, is 0.

    Raises:
        DpoError: no adapter there, not one that mlx_lm could load, or not what was written, see `stamp`.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise DpoError(
                f"is not an adapter folder: it has no {name}",
                where=folder,
                hint="name the run folder of a finished training",
            )
    check_tensors(folder / WEIGHTS, "copy the whole run folder again")
    try:
        content = json.loads((folder / CONFIG).read_text())
        if not isinstance(content, dict):
            raise TypeError("not a JSON object")
        lora = content.get("lora_parameters") or {}
        kind = content.get("fine_tune_type", "lora")
        if kind not in ("lora", "dora", "full"):
            raise ValueError(f"its fine_tune_type is {kind!r}")
        own = {"type": kind, "layers": content["num_layers"]}
        if kind != "full":
            own |= {key: lora[key] for key in ("rank", "scale")}
            own |= {"targets": lora.get("keys") or "all"}
        own = AdapterConfig(**own)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else first_line(error)
        raise DpoError(
            f"is not an adapter that mlx_lm can load: {reason}",
            where=folder / CONFIG,
            hint="copy the whole run folder again",
        ) from None
    check_config(content, folder / CONFIG)
    check_weights(folder / WEIGHTS)
    return own


def load_adapter(model: nn.Module, folder: Path | str, dropout: float = 0.0) -> None:
    """Attach the adapter in `folder` to a frozen `model` and load its weights; its arrays are trainable.

    They are float32 whatever they were saved in, as in `attach`.

    Raises:
        DpoError: as `attach_like`.
    """
    weights, live = attach_like(model, folder, dropout), trainable(model)
    model.load_weights([(n, w.astype(live[n].dtype)) for n, w in weights.items()], strict=False)
    mx.eval(model.parameters())


def attach_like(model: nn.Module, folder: Path | str, dropout: float = 0.0) -> dict[str, mx.array]:
    """Attach an adapter of the kind in `folder`, unless there is one; what `folder` holds, not in memory yet.

    Raises:
        DpoError: names or shapes that do not fit the model, the first ten listed.
    """
    config = replace(read_adapter_config(folder), dropout=dropout)
    if not any("lora_a" in m for m in model.modules()):
        try:
            attach(model, config)
        except DpoError as error:
            raise DpoError(f"this adapter does not fit: {error.what}", where=folder, hint=_FIT_HINT) from None
    weights = mx.load(str(Path(folder) / WEIGHTS))
    live = trainable(model)
    wrong = [n for n, w in weights.items() if n not in live or live[n].shape != w.shape]
    wrong += [n for n in live if n not in weights]
    if wrong:
        raise DpoError(
            f"this adapter does not fit the model: {first_ten(sorted(wrong))}", where=folder, hint=_FIT_HINT
        )
    return weights
