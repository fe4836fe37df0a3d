"""Weights and adapters that other programs wrote: what they are, and how to convert them."""

import shlex
from pathlib import Path

from ..errors import DpoError
from ..storage.reading import files_in, is_folder, is_there, read_object

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
PEFT_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


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


def is_peft(folder: Path | str) -> bool:
    """Whether a folder has a PEFT adapter, whose files have almost the same names as those of mlx_lm.

    Raises:
        DpoError: the folder cannot be read, or its adapter_config.json is not JSON.
    """
    if not is_folder(folder):
        return False
    path = Path(folder) / "adapter_config.json"
    config = read_object(path, "copy the adapter again") if is_there(path) else {}
    if "peft_type" in config:
        return True
    return "fine_tune_type" not in config and bool(files_in(folder, *PEFT_WEIGHTS))


def check_not_peft(folder: Path) -> None:
    """Check that an adapter is not a PEFT adapter: read as an adapter of mlx_lm, it would be wrong.

    Raises:
        DpoError: it is a PEFT adapter.
    """
    if is_peft(folder):
        raise DpoError(
            "is a PEFT adapter, not a run",
            where=folder,
            hint="to start from it, set model.adapter to this folder and model.path to its base model; to "
            "use both as one model, merge them with PEFT (merge_and_unload, save_pretrained)",
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
