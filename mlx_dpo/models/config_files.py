"""The config files of a model folder, config.json and generation_config.json, checked before use."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DpoError, quoted
from ..storage.reading import is_there, read_object
from ..upstream import model_classes
from .weights import DOWNLOAD

CONFIG, SAMPLING = "config.json", "generation_config.json"
_WHOLE = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "intermediate_size")
_RENAMED = {"linear_attention": "mamba", "full_attention": "attention"}
"""Kinds of blocks of Granite hybrid as transformers 5 writes them, and as mlx_lm and the Hub call them."""
_MOST_LAYERS = 10_000
_LARGEST = 2**31 - 1


def read_model_config(folder: Path) -> dict[str, Any]:
    """The model's config.json, with the end tokens of generation_config.json.

    Raises:
        DpoError: one of the two is not a JSON object, or has an invalid size or token id.
    """
    from mlx_lm.utils import load_config

    config, sampling = folder / CONFIG, folder / SAMPLING
    content = read_object(config, DOWNLOAD)
    _check_sizes(content, config)
    text = content.get("text_config")
    if not isinstance(text, dict | None):
        raise DpoError(f"text_config is {quoted(text)}, not an object", where=config, hint=DOWNLOAD)
    _check_sizes(text or {}, config)
    _check_ends(content, config)
    if is_there(sampling):
        hint = f"{DOWNLOAD}, or remove the file: it only says where answers end and how to sample"
        _check_ends(read_object(sampling, hint), sampling)
    try:
        read = load_config(folder)
    except Exception:  # mlx_lm's own code, on what is an object of plain values
        raise DpoError("is not a valid model config", where=config, hint=DOWNLOAD) from None
    kinds = read.get("layer_types")
    if read.get("model_type") == "granitemoehybrid" and isinstance(kinds, list):
        read["layer_types"] = [_RENAMED.get(kind, kind) if isinstance(kind, str) else kind for kind in kinds]
    return read


def _check_sizes(content: Mapping[str, Any], file: Path) -> None:
    """Check sizes; some models have lists of sizes, one per block, or null."""
    for name in _WHOLE:
        value = content.get(name)
        if not isinstance(value, int | list | None) or isinstance(value, bool):
            raise DpoError(f"{name} is {quoted(value)}, not a whole number", where=file, hint=DOWNLOAD)
        most = _MOST_LAYERS if name == "num_hidden_layers" else _LARGEST
        if isinstance(value, int) and not 0 <= value <= most:
            raise DpoError(f"{name} cannot be {quoted(value)}", where=file, hint=DOWNLOAD)


def _check_ends(content: Mapping[str, Any], file: Path) -> None:
    value = content.get("eos_token_id")
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(i) is int and 0 <= i <= _LARGEST for i in ids):
        what = f"eos_token_id is {quoted(value)}, not a token id or a list of them"
        raise DpoError(what, where=file, hint=DOWNLOAD)


def check_architecture(folder: Path) -> None:
    """Check that mlx_lm supports the model's architecture, without executing code of the folder.

    Raises:
        DpoError: the architecture is not supported.
    """
    config = read_model_config(folder)
    known = "choose a model whose architecture mlx_lm supports"
    if config.get("model_file") is not None:
        raise DpoError(
            f"the model needs its own code, {quoted(config['model_file'])} (model_file)",
            where=folder / CONFIG,
            hint=f"code in model folders is never executed, so such models are not supported: {known}",
        )
    try:
        model_classes(config)
    except (KeyError, ValueError, AttributeError, TypeError):
        hint = "update mlx-lm (pip install -U mlx-lm), or choose another model"
        if config.get("auto_map"):
            hint = (
                f"its own code (auto_map) is never executed: update mlx-lm (pip install -U mlx-lm), or "
                f"{known}"
            )
        raise DpoError(
            f"mlx_lm does not support the architecture {quoted(config.get('model_type'))}",
            where=folder / CONFIG,
            hint=hint,
        ) from None
