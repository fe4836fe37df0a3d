"""What an export of full weights starts from: the fused model and its tensors in the Hub's layout."""

from pathlib import Path
from typing import Any, NamedTuple

from ..data.conversation_tokens import end_of_turn
from ..errors import DpoError
from ..models.adapters import read_adapter_config
from ..models.load import ModelConfig, find_model
from ..storage.files import check_writable
from ..storage.reading import files_in, is_there, read_object
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
    model_path: str, adapter: Path | str, output: Path, bytes_a_number: float
) -> tuple[Path, BaseTensors]:
    """The base's folder and tensors, after all checks that are fast.

    Args:
        bytes_a_number: most bytes that the export needs for one number of the weights.

    Raises:
        DpoError: the target exists or has no room; the base or the adapter cannot be read.
    """
    check_target(output)
    read_adapter_config(adapter)
    base = find_model(model_path)
    tensors = base_tensors(base)
    check_writable(output, need_bytes=int(bytes_a_number * numbers_in(tensors)))
    return base, tensors


def numbers_in(base: BaseTensors) -> int:
    """Number of weights, of packed ones too."""
    groups = {
        name.removesuffix(".scales"): value
        for name, value in base.tensors.items()
        if name.endswith(".scales")
    }
    packed = sum(scales.size for scales in groups.values()) * 64  # most weights that share a scale
    plain = sum(
        value.size
        for name, value in base.tensors.items()
        if name.removesuffix(".weight").removesuffix(".biases").removesuffix(".scales") not in groups
    )
    return plain + packed


def read_source(
    base: Path, tensors: BaseTensors, adapter: Path | str, asked: ModelConfig | None = None
) -> Source:
    """Fuse, and give the tensors the Hub's layout.

    Raises:
        DpoError: the adapter does not fit, weights are not finite, or the layout is not known.
    """
    config = read_object(base / "config.json")
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
        if file.is_file() and file.name != "config.json" and not file.name.endswith(".index.json")
    ]
