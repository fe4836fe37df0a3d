"""What an export of full weights starts from: the fused model and its tensors in the Hub's layout."""

from pathlib import Path
from typing import Any, NamedTuple

import mlx.nn as nn

from ..data.conversation_tokens import end_of_turn
from ..errors import DpoError
from ..models.adapters import read_adapter_config
from ..models.config_files import CONFIG
from ..models.load import ModelConfig, find_model
from ..storage.files import check_writable
from ..storage.reading import files_in, is_there, read_object
from ..upstream import model_classes
from .fused_model import FusedModel, fused_model
from .hub_layout import BaseTensors, HubTensors, base_tensors, hub_tensors

_QUANTISATION = ("quantization", "quantization_config")


class Source(NamedTuple):
    """A fused model, as other programs want it.

    `base`: the base's folder; `config`: its config.json without quantisation; `tensors`: all tensors in the
    Hub's layout; `end`: the token that ends an answer.
    """

    base: Path
    config: dict[str, Any]
    fused: FusedModel
    tensors: HubTensors
    end: int

    @property
    def tokenizer(self) -> Any:
        return self.fused.tokenizer


def check_target(output: Path) -> None:
    """Check that nothing is at the place of an export.

    Raises:
        DpoError: something is there.
    """
    if is_there(output):
        raise DpoError(
            "exists already", where=output, hint="choose another folder with --output", code="exists"
        )


def open_base(
    model_path: str, adapter: Path | str, output: Path, bytes_a_number: float | None = None
) -> tuple[Path, BaseTensors]:
    """The base's folder and tensors, after all checks that are fast.

    Args:
        bytes_a_number: what the export needs for one number of the weights; None: as the base, unpacked.

    Raises:
        DpoError: the target exists or has no room; the base or the adapter cannot be read.
    """
    check_target(output)
    read_adapter_config(adapter)
    base = find_model(model_path)
    tensors = base_tensors(base)
    group = (read_object(base / CONFIG).get("quantization") or {}).get("group_size", 64)
    check_writable(output, need_bytes=export_bytes(tensors, group, bytes_a_number))
    return base, tensors


def export_bytes(base: BaseTensors, group: int, bytes_a_number: float | None) -> int:
    """Bytes of the weights in an export; `group`: packed numbers that share a scale."""
    scales = {n.removesuffix(".scales"): v for n, v in base.tensors.items() if n.endswith(".scales")}
    sizes = [(value.size * group, value.itemsize) for value in scales.values()]
    for name, value in base.tensors.items():
        stem, _, end = name.rpartition(".")
        if stem not in scales or end not in ("weight", "scales", "biases"):
            sizes.append((value.size, value.itemsize))
    return int(sum(count * (bytes_a_number or size) for count, size in sizes))


def without_weights(base: Path) -> tuple[str, nn.Module]:
    """The type and the model of a base's config, with weights that are never computed."""
    config = read_object(base / CONFIG)
    kind, arguments = model_classes(config)
    return str(config.get("model_type")), kind(arguments.from_dict(config))


def read_source(
    base: Path, tensors: BaseTensors, adapter: Path | str, asked: ModelConfig | None = None
) -> Source:
    """Fuse, and give the tensors the Hub's layout.

    Raises:
        DpoError: the adapter does not fit, weights are not finite, or the layout is not known.
    """
    config = read_object(base / CONFIG)
    config = {name: value for name, value in config.items() if name not in _QUANTISATION}
    fused = fused_model(base, adapter, asked)
    hub = hub_tensors(fused.model, fused.config, tensors, base)
    return Source(base, config, fused, hub, end_of_turn(fused.tokenizer))


def own_template(source: Source, asked: ModelConfig | None) -> str | None:
    """The chat template of the run, if it replaces the base's."""
    template = source.tokenizer.chat_template
    return template if asked and asked.chat_template and isinstance(template, str) else None


def text_files(base: Path) -> list[Path]:
    """Files of a model's folder that go with its weights: tokenizer, sampling, licence; no code, no card."""
    patterns = ("*.json", "*.jinja", "*.model", "*.txt", "LICENSE*", "NOTICE*", "USE_POLICY*")
    return [
        file
        for file in files_in(base, *patterns)
        if file.is_file() and file.name != CONFIG and not file.name.endswith(".index.json")
    ]
