"""The model that an adapter was trained on, identified by its content, wherever its folder is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..console import say
from ..errors import DpoError
from ..storage.checksummed_folder import digest
from ..storage.reading import path_text, read_object, read_text
from .adapters import CONFIG
from .config_files import read_model_config
from .fingerprint import model_weights_hash

KEY = "base_sha256"
"""Key of the `base_sums` in adapter_config.json."""
_NOT_COMPUTED = ("eos_token_id", "bos_token_id", "pad_token_id", "transformers_version", "_name_or_path")
"""Keys of a model's config that do not change what the weights compute."""


_TEMPLATE = "chat_template"
"""The only sum that may differ: a model can be asked with another chat template than in training."""


def base_sums(base: Path, tokenizer: Any) -> dict[str, str]:
    """What identifies a model: the SHA-256 of its weights, config, tokenizer and chat template.

    Every byte of the weights counts; of the tokenizer its entries, and the tokens that it gives for a text
    made of all entries.

    Args:
        tokenizer: with the chat template that is used.

    Raises:
        DpoError: the files cannot be read.
    """
    entries = tokenizer.get_vocab()
    text = tokenizer.decode(sorted(entries.values()), clean_up_tokenization_spaces=False)
    return {
        "weights": model_weights_hash(base),
        "config": digest(_computed(base))[:32],
        "tokenizer": digest({"entries": entries, "tokens": tokenizer.encode(text, verbose=False)})[:32],
        _TEMPLATE: digest({"text": tokenizer.chat_template})[:32],
    }


def _computed(base: Path) -> dict[str, Any]:
    return {name: value for name, value in read_model_config(base).items() if name not in _NOT_COMPUTED}


def _sums_of(adapter: Path | str) -> Mapping[str, str]:
    """The `base_sums` when the adapter was written; earlier versions wrote fewer sums, or none."""
    sums = read_object(Path(adapter) / CONFIG).get(KEY)
    return sums if isinstance(sums, Mapping) else {}


def check_template(adapter: Path | str, file: Path) -> None:
    """Check that the file of the run's chat template is the template that the adapter was trained with.

    Raises:
        DpoError: it is another template.
    """
    sums = _sums_of(adapter)
    if _TEMPLATE in sums and digest({"text": read_text(file)})[:32] != sums[_TEMPLATE]:
        raise DpoError(
            "is not the chat template that the run was trained with",
            where=file,
            hint="copy the file again from the original run folder, or give the run's train command again, "
            "which writes it again",
        )


def check_base(adapter: Path | str, base: Path, tokenizer: Any) -> None:
    """Check that `base` is the model that the adapter in this folder was trained on, if that is known.

    A different chat template gives a warning.

    Args:
        tokenizer: the base's, with the chat template that is used.

    Raises:
        DpoError: it is another model, even one of the same shape.
    """
    trained_on = _sums_of(adapter)
    if not trained_on:
        return
    now = base_sums(base, tokenizer)
    changed = [name for name in now if now[name] != trained_on.get(name, now[name])]
    if other := [name for name in changed if name != _TEMPLATE]:
        model = read_object(Path(adapter) / CONFIG).get("model")
        raise DpoError(
            f"is not the model that {adapter} was trained on ({path_text(str(model))}): "
            f"it differs in {', '.join(other)}",
            where=base,
            hint="give the path of that model with --model; to use the adapter with this model all the same, "
            f'remove "{KEY}" and "sha256" from {Path(adapter) / CONFIG}',
        )
    if changed:
        say(
            f"WARNING: {adapter} was trained with another chat template than the one now used for {base}: "
            "answers may be worse"
        )
