"""Model and tokenizer from a folder or the Hub."""

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..data.chat_template import OWN_ARGUMENTS, set_template
from ..data.template_choice import template_source
from ..errors import DpoError, first_line
from ..forward.quantised import speed_up_products
from ..settings import Section, setting
from ..storage.reading import expanded, files_in, is_folder, is_there, opened
from ..upstream import UpstreamError, downloaded
from .config_files import check_architecture, read_model_config
from .foreign_weights import foreign_weights
from .tokenizer import check_embedded, read_tokenizer
from .weights import embedded_tokens, weight_files


@dataclass(frozen=True)
class ModelConfig(Section):
    """The model to train, and where the training starts."""

    path: str = setting(
        "ibm-granite/granite-4.0-h-micro",
        "a folder in hub layout, or a name on the Hub",
        path="read",
        also={
            "model model_name model_name_or_path base_model model_id pretrained_model_name_or_path "
            "hf_path model_path": "",
            "load_in_4bit load_in_8bit quantization_bit": "set it to a quantised copy of the model.",
            "bf16 fp16 dtype torch_dtype": "weights keep the precision of the files in that folder.",
        },
    )
    adapter: str | None = setting(
        None,
        "adapter to start from: a run or a PEFT adapter; the reference is then the model with this adapter",
        path="read",
        also={
            "adapter_name_or_path resume_adapter_file sft_adapter peft_model": "",
            "ref_model reference_model reference_model_path ref_adapter_name": "the reference is "
            "always the model that a run starts from, with this adapter.",
        },
    )
    chat_template: str | None = setting(
        None,
        "replaces the model's chat template: a .jinja file, a template name of the tokenizer, or chatml",
        path="read",
        also={"chat_template_path template": ""},
    )
    template_options: dict[str, Any] = setting(
        {},
        "arguments for the chat template: enable_thinking, tools, or a fixed date",
        also={"chat_template_kwargs chat_template_args chat_template_config enable_thinking": ""},
    )

    def __post_init__(self):
        super().__post_init__()
        if own := sorted({*OWN_ARGUMENTS} & self.template_options.keys()):
            raise ValueError(f"template_options cannot set {own[0]}")


def find_model(name: str, *, weights: bool = True) -> Path:
    """The model's folder; a model on the Hub is downloaded if it is not yet in the Hub's cache.

    Args:
        weights: whether they are needed; otherwise the config and the tokenizer are enough.

    Raises:
        DpoError: not a model folder, damaged weights, an architecture that mlx_lm does not support, or a
            failed download.
    """
    folder = expanded(name)
    if not is_there(folder):
        folder = _download(name, weights)
    if not is_there(folder / "config.json"):
        raise _no_model(folder, name)
    check_architecture(folder)
    weight_files(folder, name, required=weights)
    return folder


def cached_model(name: str) -> Path | None:
    """The folder of a model if it is on this machine, also in the Hub's cache; no request is made."""
    from huggingface_hub import try_to_load_from_cache

    folder = expanded(name)
    if is_there(folder):
        return folder
    with suppress(ValueError):  # not a name on the Hub
        config = try_to_load_from_cache(name, "config.json")
        return Path(config).parent if isinstance(config, str) else None
    return None


def _no_model(folder: Path, name: str) -> DpoError:
    """What to raise for a folder without config.json."""
    hint = "give a folder in hub layout (config.json, *.safetensors, tokenizer.json) or a name on the Hub"
    if not is_folder(folder):
        if folder.suffix == ".gguf":
            hint = (
                "mlx-dpo does not read GGUF: give the folder of the safetensors model that it was made from"
            )
        return DpoError("is a file, not a model folder", where=name, hint=hint)
    if is_there(folder / "adapter_config.json"):
        hint = "set model.path to its base model, and model.adapter to this folder"
        return DpoError("is an adapter folder, not a model folder", where=name, hint=hint)
    foreign = None if files_in(folder, "model*.safetensors") else foreign_weights(folder, name)
    return foreign or DpoError("is not a model folder: it has no config.json", where=name, hint=hint)


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
    from mlx_lm.utils import DEFAULT_ALLOW_PATTERNS

    patterns = [p for p in DEFAULT_ALLOW_PATTERNS if weights or not p.endswith(".safetensors")]
    patterns.append("README.md")  # its card names the licence, which an upload must repeat

    try:
        return downloaded(name, patterns)
    except UpstreamError:
        raise
    except Exception as error:  # errors of the Hub client or of httpx, or OSError: in any case no model
        raise DpoError(
            f"no such folder, and the download from the Hub failed: {first_line(error)}",
            where=name,
            hint="check the spelling and the network; gated models need: hf auth login",
        ) from None


def load_tokenizer(folder: Path, model: ModelConfig | None = None) -> Any:
    """The tokenizer, with the end tokens of the model's config and the configured chat template.

    Raises:
        DpoError: the tokenizer is missing, cannot be read or used, or gives tokens without an embedding.
    """
    config = read_model_config(folder)
    tokenizer = read_tokenizer(folder, config.get("eos_token_id"))
    if model:
        name, own = model.chat_template, tokenizer.chat_template
        source = name and template_source(name, own if isinstance(own, dict) else {})
        set_template(tokenizer, source, model.template_options)
    check_embedded(tokenizer, embedded_tokens(folder, config), folder)
    return tokenizer


def load_model(folder: Path, *, lazy: bool = False) -> tuple[nn.Module, dict[str, Any]]:
    """The model in evaluation mode, its weights in memory, and its config.

    Args:
        lazy: each weight is read from its file when it is used.

    Raises:
        DpoError: an architecture that mlx_lm does not support, or weights that do not fit the config.
    """
    from mlx_lm.utils import load_model

    check_architecture(folder)
    speed_up_products()
    try:
        return load_model(folder, lazy=lazy, model_config=read_model_config(folder))
    except MemoryError:
        raise
    except Exception as error:  # mlx_lm's classes get the config as it is, and raise many kinds of errors
        raise DpoError(
            f"the model cannot be loaded: {_told(error)}",
            where=folder,
            hint="mlx_lm must support the architecture (pip install -U mlx-lm); all files must be complete",
        ) from None


def _told(error: Exception) -> str:
    """The first line of an error; if it announces a list of tensors, with the first of them."""
    lines = [line.strip().rstrip(",.") for line in str(error).strip().splitlines()]
    return " ".join(lines[:2]) if lines and lines[0].endswith(":") else first_line(error)


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all parameters."""
    return sum(v.nbytes for _, v in tree_flatten(model.parameters()))


def fingerprint(*folders: Path) -> str:
    """16 hex digits of models' or adapters' content: whole configs; size and 16 samples of 64 KB of weights.

    It recognises another model under the same path, and the same model under another path. It does not see a
    change of single weights between the samples.
    """
    digest = hashlib.sha256()
    for folder in folders:
        for file in files_in(folder, "*.json", "*.safetensors"):
            with opened(file) as content:
                size = os.fstat(content.fileno()).st_size
                digest.update(f"{file.name} {size}".encode())
                for sample in range(16):
                    content.seek(sample * max(0, size - 65536) // 15)
                    digest.update(content.read(65536))
    return digest.hexdigest()[:16]


def compute_dtype(model: nn.Module) -> mx.Dtype:
    """The dtype of activations: half precision if any weight or scale has it, else float32."""
    floats = [v.dtype for _, v in tree_flatten(model.parameters()) if mx.issubdtype(v.dtype, mx.floating)]
    half = [d for d in floats if d in (mx.bfloat16, mx.float16)]
    return half[0] if half else mx.float32
