"""The end of turn in the config files of a model folder, so that other programs stop there too."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..models.end_of_turn import token_ids
from ..storage.reading import is_there, read_object

_KEY = "eos_token_id"


def list_end(folder: Path, end: int, stops: Sequence[int]) -> bool:
    """Add the end of turn to config.json and generation_config.json where one lacks it; whether one did.

    The end tokens that are there stay, before it. A generation_config.json that is missing is written, with
    the special tokens of the config, as transformers would take them from there.

    Args:
        end: the end of turn.
        stops: what mlx_lm stops at already; a config without end tokens gets these too, because mlx_lm takes
            the end tokens of a config in place of its own defaults.
    """
    config, sampling = (_read(folder / name) for name in ("config.json", "generation_config.json"))
    text = config.get("text_config") or {}
    listed = [part for part in (text, sampling) if token_ids(part.get(_KEY))]
    if all(end in token_ids(part.get(_KEY)) for part in (config, *listed)):
        return False
    _add(config, token_ids(config.get(_KEY)) or stops, end)
    if token_ids(text.get(_KEY)):
        _add(text, [], end)
    if not sampling:
        sampling = {name: config[name] for name in ("bos_token_id", "pad_token_id") if name in config}
    _add(sampling, config[_KEY], end)  # mlx_lm reads these in place of the config's
    for name, content in (("config.json", config), ("generation_config.json", sampling)):
        (folder / name).write_text(json.dumps(content, indent=4) + "\n")
    return True


def _add(part: dict[str, Any], others: Sequence[int], end: int) -> None:
    """List what the part has, then the others, then the end of turn where it is not among them."""
    part[_KEY] = list(dict.fromkeys([*token_ids(part.get(_KEY)), *others, end]))


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one where there is no such file."""
    return read_object(path) if is_there(path) else {}
