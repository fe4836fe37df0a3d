"""What an export of full weights starts from: the fused model and its tensors in the Hub's layout."""

from pathlib import Path
from typing import Any, NamedTuple

from ..data.conversation_tokens import end_of_turn
from ..models.config_files import CONFIG
from ..models.load import ModelConfig, load_model
from ..storage.files import check_writable
from ..storage.reading import files_in, read_object
from .fused_model import FusedModel, fused_model
from .hub_layout import BaseTensors, HubTensors, base_tensors, check_layout, hub_tensors

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


def open_tensors(base: Path, output: Path, bytes_a_number: float | None = None) -> BaseTensors:
    """The base's tensors, after all checks for which no weights are read.

    Args:
        bytes_a_number: what the export needs for one number of the weights; None: as the base, unpacked.

    Raises:
        DpoError: the disk has no room; the base cannot be read, or has tensors that an export could not have.
    """
    tensors = base_tensors(base)
    need = plain_bytes(base, tensors, bytes_a_number) + sum(f.stat().st_size for f in text_files(base))
    check_writable(output, need_bytes=need)
    check_layout(*load_model(base, lazy=True), tensors, base)
    return tensors


def plain_bytes(base: Path, tensors: BaseTensors, bytes_a_number: float | None = None) -> int:
    """Bytes of a base's weights when nothing is quantised; see `export_bytes`."""
    group = (read_object(base / CONFIG).get("quantization") or {}).get("group_size", 64)
    return export_bytes(tensors, group, bytes_a_number)


def export_bytes(base: BaseTensors, group: int, bytes_a_number: float | None) -> int:
    """Bytes of the weights in an export; `group`: packed numbers that share a scale."""
    scales = {n.removesuffix(".scales"): v for n, v in base.tensors.items() if n.endswith(".scales")}
    sizes = [(value.size * group, value.itemsize) for value in scales.values()]
    for name, value in base.tensors.items():
        stem, _, end = name.rpartition(".")
        if stem not in scales or end not in ("weight", "scales", "biases"):
            sizes.append((value.size, value.itemsize))
    return int(sum(count * (bytes_a_number or size) for count, size in sizes))


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


def text_files(base: Path) -> list[Path]:
    """Files of a model's folder that go with its weights: tokenizer, sampling, licence; no code, no card."""
    patterns = ("*.json", "*.jinja", "*.model", "*.txt", "LICENSE*", "NOTICE*", "USE_POLICY*")
    return [
        file
        for file in files_in(base, *patterns)
        if file.is_file() and file.name != CONFIG and not file.name.endswith(".index.json")
    ]
