"""Model and tokenizer from a folder or the Hub."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..data.chat_templates import template_source
from ..data.render import OWN_ARGUMENTS, set_template
from ..errors import DpoError, first_line
from ..settings import Section, setting
from .quantised import speed_up_products


@dataclass(frozen=True)
class ModelConfig(Section):
    """Which model is trained, and from where."""

    path: str = setting(
        "ibm-granite/granite-4.0-h-micro",
        "a folder in hub layout, or a name on the Hub",
        path="read",
        also={
            "model model_name model_name_or_path base_model model_id pretrained_model_name_or_path "
            "hf_path model_path": "",
            "load_in_4bit load_in_8bit quantization_bit": "name a quantised copy of the model there.",
            "bf16 fp16 dtype torch_dtype": "weights keep the precision that is in that folder.",
        },
    )
    adapter: str | None = setting(
        None,
        "start from this adapter (say, from SFT); the reference is then the model with it",
        path="read",
        also={
            "adapter_name_or_path resume_adapter_file sft_adapter peft_model": "",
            "ref_model reference_model reference_model_path ref_adapter_name": "the reference is "
            "always the model that a run starts from, with this adapter.",
        },
    )
    chat_template: str | None = setting(
        None,
        "another chat template: a .jinja file, a name that the tokenizer has, or chatml",
        path="read",
        also={"chat_template_path template": ""},
    )
    template_options: dict[str, Any] = setting(
        {},
        "arguments of the chat template, such as enable_thinking, tools, or date in place of today",
        also={"chat_template_kwargs chat_template_args chat_template_config enable_thinking": ""},
    )

    def __post_init__(self):
        super().__post_init__()
        if own := sorted({*OWN_ARGUMENTS} & self.template_options.keys()):
            raise ValueError(f"template_options cannot set {own[0]}")


def find_model(name: str, *, weights: bool = True) -> Path:
    """The model's folder; a Hub name is downloaded where it is not yet in the Hub's cache.

    Args:
        weights: they are needed; else the config and the tokenizer are enough.

    Raises:
        DpoError: not a model folder, damaged weights, an architecture mlx_lm does not know, or not to be had
            from the Hub.
    """
    folder = Path(name).expanduser()
    if not folder.exists():
        folder = _download(name, weights)
    if not (folder / "config.json").is_file():
        raise DpoError(
            "is not a model folder: it has no config.json",
            where=name,
            hint="name a folder in hub layout (config.json, *.safetensors, tokenizer.json) or a Hub name",
        )
    files = sorted(folder.glob("model*.safetensors"))
    if weights and not files:
        raise DpoError(
            "has a config.json but no model*.safetensors",
            where=name,
            hint="the weights are missing; download the model again",
        )
    _check_architecture(folder)
    for file in files:
        check_tensors(file, "download the model again")
    return folder


def _check_architecture(folder: Path) -> None:
    from mlx_lm.utils import _get_classes

    config = read_model_config(folder)
    try:
        _get_classes(config)
    except (KeyError, ValueError):
        raise DpoError(
            f"mlx_lm does not know the architecture {config.get('model_type')!r}",
            where=folder / "config.json",
            hint="pip install -U mlx-lm, or choose another model",
        ) from None


def check_tensors(file: Path, hint: str) -> None:
    """Check, by its header alone, that a safetensors file is whole.

    Raises:
        DpoError: it is not; with `hint`.
    """
    try:
        mx.load(str(file))
    except (RuntimeError, ValueError):
        raise DpoError("is damaged or not whole", where=file, hint=hint) from None


def _download(name: str, weights: bool) -> Path:
    from huggingface_hub.utils import validate_repo_id

    not_found = DpoError(
        "no such folder, and not a Hub name (organisation/model)",
        where=name,
        hint="set model.path to a model folder, or to a name like ibm-granite/granite-4.0-h-micro",
    )
    if name.count("/") != 1 or name[:1] in "./~":
        raise not_found
    try:
        validate_repo_id(name)
    except ValueError:
        raise not_found from None
    from mlx_lm.utils import DEFAULT_ALLOW_PATTERNS, _download

    patterns = [p for p in DEFAULT_ALLOW_PATTERNS if weights or not p.endswith(".safetensors")]

    try:
        return _download(name, allow_patterns=patterns)
    except Exception as error:  # the Hub client raises its own, httpx's and OSError; all mean: no model
        raise DpoError(
            f"no such folder here, and the Hub did not give it: {first_line(error)}",
            where=name,
            hint="check the spelling and the network; gated models need: hf auth login",
        ) from None


def read_model_config(folder: Path) -> dict[str, Any]:
    """The model's config.json, with generation_config.json's end tokens.

    Raises:
        DpoError: it is not a JSON object.
    """
    from mlx_lm.utils import load_config

    try:
        config = load_config(folder)
    except json.JSONDecodeError as error:
        raise DpoError(
            f"not JSON: {error.msg}",
            where=f"{folder / 'config.json'}:{error.lineno}",
            hint="download the model again",
        ) from None
    except UnicodeDecodeError:
        config = None
    if not isinstance(config, dict):
        raise DpoError(
            "is not a model's config", where=folder / "config.json", hint="download the model again"
        )
    return config


def load_tokenizer(folder: Path, config: ModelConfig | None = None) -> Any:
    """The tokenizer, with the end tokens that the model's config names, and a chat template as configured.

    Raises:
        DpoError: there is none, or it cannot be read; or the chat template cannot be used.
    """
    from mlx_lm.utils import load_tokenizer

    ends = read_model_config(folder).get("eos_token_id")
    try:
        tokenizer = load_tokenizer(folder, eos_token_ids=ends)
    except Exception as error:  # transformers raises many kinds for a broken or missing tokenizer
        reason = first_line(error) if (folder / "tokenizer.json").is_file() else "it has no tokenizer.json"
        raise DpoError(
            f"its tokenizer cannot be loaded: {reason}",
            where=folder,
            hint="the folder needs tokenizer.json and tokenizer_config.json; download the model again",
        ) from None
    if config:
        name, own = config.chat_template, tokenizer.chat_template
        source = name and template_source(name, own if isinstance(own, dict) else {})
        set_template(tokenizer, source, config.template_options)
    return tokenizer


def load_model(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The model in evaluation mode, its weights in memory, and its config.

    Raises:
        DpoError: an architecture mlx_lm does not know, or weights that do not fit the config.
    """
    from mlx_lm.utils import load_model

    read_model_config(folder)
    speed_up_products()
    try:
        return load_model(folder)
    except (ValueError, KeyError, TypeError, RuntimeError, FileNotFoundError) as error:
        raise DpoError(
            f"the model cannot be loaded: {first_line(error)}",
            where=folder,
            hint="mlx_lm must know the architecture (pip install -U mlx-lm) and the files must be whole",
        ) from None


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all parameters."""
    return sum(v.nbytes for _, v in tree_flatten(model.parameters()))


def fingerprint(*folders: Path) -> str:
    """16 hex digits of models' or adapters' content: configs whole, weights by size and 16 samples of 64 KB.

    It tells another model under the same path, and the same one under another; a change of single weights
    between the samples it does not see.
    """
    digest = hashlib.sha256()
    for folder in folders:
        for file in sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")]):
            size = file.stat().st_size
            digest.update(f"{file.name} {size}".encode())
            with open(file, "rb") as content:
                for sample in range(16):
                    content.seek(sample * max(0, size - 65536) // 15)
                    digest.update(content.read(65536))
    return digest.hexdigest()[:16]


def compute_dtype(model: nn.Module) -> mx.Dtype:
    """The dtype activations have: half precision where any weight or scale is, else float32."""
    floats = [v.dtype for _, v in tree_flatten(model.parameters()) if mx.issubdtype(v.dtype, mx.floating)]
    half = [d for d in floats if d in (mx.bfloat16, mx.float16)]
    return half[0] if half else mx.float32
