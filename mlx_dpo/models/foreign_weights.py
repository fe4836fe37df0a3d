"""Weights and adapters that other programs wrote: what they are, and how to convert them."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DpoError
from ..storage.reading import files_in, path_text

_CONVERT = (
    'with torch installed, convert it to safetensors: python -c "from transformers import '
    "AutoModelForCausalLM as M; M.from_pretrained({0}, dtype='auto').save_pretrained({0})\""
)
_HUB_COPY = "use the safetensors model that it was made from; its page on the Hub names that model"
_RENAME = "mlx_lm reads model*.safetensors only: rename {} to model.safetensors"
_HUB_LAYOUT = "download the model again in hub layout (model*.safetensors)"
_WEIGHTS = (
    ("pytorch_model*.bin", _CONVERT),
    ("consolidated*.safetensors", _HUB_LAYOUT),
    ("consolidated*.pth", _HUB_LAYOUT),
    ("*.gguf", _HUB_COPY),
    ("*.bin", _CONVERT),
    ("*.pt", _CONVERT),
    ("*.pth", _CONVERT),
    ("*.npz", "convert the model again with mlx_lm convert, which writes safetensors"),
    ("*.msgpack", _HUB_LAYOUT),
    ("*.h5", _HUB_LAYOUT),
    ("*.safetensors", _RENAME),
)
"""Names of weight files that mlx_lm does not read, the likeliest first, each with the remedy."""

_NO_WEIGHTS = ("training_args.bin", "optimizer.*", "scheduler.*", "rng_state*", "adapter*")
_PEFT_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


def foreign_weights(folder: Path, where: str) -> DpoError | None:
    """What to raise for a folder whose weights mlx_lm does not read; None if it has no weights at all."""
    others = {file.name for file in files_in(folder, *_NO_WEIGHTS)}
    for pattern, remedy in _WEIGHTS:
        names = [file.name for file in files_in(folder, pattern) if file.name not in others]
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            quoted = "'" + str(folder).replace("\\", "\\\\").replace("'", "\\'") + "'"
            subject = quoted if remedy is _CONVERT else shlex.quote(names[0])
            return DpoError(
                f"has weights only in {names[0]}{more}, which mlx_lm does not read",
                where=where,
                hint=remedy.format(subject),
            )
    return None


def check_not_peft(folder: Path, config: Mapping[str, Any] | None) -> None:
    """Check that an adapter is not a PEFT adapter, whose files have almost the same names.

    Args:
        config: content of its adapter_config.json; None if there is no such file.

    Raises:
        DpoError: it is a PEFT adapter.
    """
    config = config or {}
    if "peft_type" not in config and ("fine_tune_type" in config or not files_in(folder, *_PEFT_WEIGHTS)):
        return
    rank, alpha = config.get("r"), config.get("lora_alpha")
    known = all(isinstance(v, (int, float)) and 0 < v < 1e9 for v in (rank, alpha))
    scale = f"scale = lora_alpha / r = {alpha / rank:g}" if known else "scale = lora_alpha / r"
    base = config.get("base_model_name_or_path")
    of = f" for {path_text(base)}" if isinstance(base, str) and base else ""
    kind = config.get("peft_type")
    raise DpoError(
        f"is a PEFT adapter ({kind}){of}" if isinstance(kind, str) else "is a PEFT adapter",
        where=folder,
        hint="merge it into its base model with PEFT (merge_and_unload, save_pretrained) and set model.path "
        f"to the result; or convert it to an mlx_lm adapter: transpose lora_A and lora_B, and set {scale}",
    )


def check_adapter_weights(folder: Path) -> None:
    """Check that an adapter folder without adapters.safetensors has no weights in another format.

    Raises:
        DpoError: it has some; the hint is the remedy.
    """
    remedies = {
        "*.gguf": "this is a llama.cpp adapter: use the adapter that it was made from",
        "*.npz": 'an older mlx_lm wrote it; convert it: python -c "import mlx.core as mx; '
        'mx.save_safetensors({0}, dict(mx.load({1})))"',
        "*.bin": "with torch installed, save it again as safetensors",
    }
    for pattern, remedy in remedies.items():
        for file in files_in(folder, pattern):
            raise DpoError(
                f"has its weights in {file.name}, which mlx_lm does not read",
                where=folder,
                hint=remedy.format(repr(str(folder / "adapters.safetensors")), repr(str(file))),
            )
