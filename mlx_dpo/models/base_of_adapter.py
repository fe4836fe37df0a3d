"""Which model an adapter was trained on, by content: wherever the model lies, and no other one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DpoError
from ..storage.checksummed_folder import digest
from ..storage.reading import path_text, read_object
from .adapters import CONFIG
from .config_files import read_model_config
from .fingerprint import model_weights_hash

KEY = "base_sha256"
"""Of what `base_sums` gave, in adapter_config.json."""
_NOT_COMPUTED = ("eos_token_id", "bos_token_id", "pad_token_id", "transformers_version", "_name_or_path")
"""Keys of a model's config that change nothing of what the weights compute."""


def base_sums(base: Path) -> dict[str, str]:
    """What tells a model from others: the SHA-256 of every byte of its weights, and of its config.

    Raises:
        DpoError: the files cannot be read.
    """
    return {"weights": model_weights_hash(base), "config": digest(_computed(base))[:32]}


def _computed(base: Path) -> dict[str, Any]:
    return {name: value for name, value in read_model_config(base).items() if name not in _NOT_COMPUTED}


def check_base(adapter: Path | str, base: Path) -> None:
    """Check that `base` is the model that the adapter in this folder was trained on, where the folder says.

    Raises:
        DpoError: it is another one, if of the same shape.
    """
    content = read_object(Path(adapter) / CONFIG)
    trained_on = content.get(KEY)
    if not isinstance(trained_on, Mapping):
        return
    now = base_sums(base)
    changed = [name for name in now if now[name] != trained_on.get(name)]
    if changed:
        raise DpoError(
            f"is not the model that {adapter} was trained on ({path_text(str(content.get('model')))}): "
            f"other {' and '.join(changed)}",
            where=base,
            hint="name that model with --model, wherever it lies now; to use the adapter on this one all the "
            f'same, remove "{KEY}" and "sha256" from {Path(adapter) / CONFIG}',
        )
