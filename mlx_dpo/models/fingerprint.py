"""Hashes that identify a model by its content: every byte of its weights, config and code."""

import hashlib
import json
from pathlib import Path

from ..storage.cache import content_hash
from ..storage.reading import files_in
from .adapters import CONFIG, WEIGHTS
from .foreign_weights import PEFT_WEIGHTS

_WEIGHTS = "model*.safetensors"


def model_and_adapter_hashes(base: Path, adapter: Path | str | None) -> dict[str, str | None]:
    """Hashes of what a policy starts from, {"base", "adapter"}: wherever the folders are. None: no adapter.

    Raises:
        DpoError: a file cannot be read.
    """
    return {
        "base": files_hash(base, _WEIGHTS, "config.json", "*.py"),
        "adapter": files_hash(Path(adapter), WEIGHTS, CONFIG, *PEFT_WEIGHTS) if adapter else None,
    }


def model_weights_hash(base: Path) -> str:
    """32 hex digits that change with any byte of the weights.

    Raises:
        DpoError: a file cannot be read.
    """
    return files_hash(base, _WEIGHTS)


def files_hash(folder: Path, *names: str) -> str:
    """32 hex digits that change with any byte of the files with these names, wherever the folder is.

    Large files are read once and then recognised by size and times, see `storage.cache.content_hash`.

    Raises:
        DpoError: a file cannot be read.
    """
    content = [[file.name, content_hash(file)] for file in files_in(folder, *names)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
