"""The end of turn in the config files of a model folder, so that other programs stop at it too."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..models.end_of_turn import token_ids
from ..storage.reading import is_there, read_object

_KEY = "eos_token_id"


def list_end(folder: Path, end: int, stops: Sequence[int]) -> bool:
    """Add the end of turn to config.json and generation_config.json if one lacks it; return whether one did.

    Existing end tokens stay, before the new one. A missing generation_config.json is written with the special
    tokens of config.json, which transformers would use.

    Args:
        end: the end of turn.
        stops: tokens at which mlx_lm already stops. A config without end tokens gets them too, because mlx_lm
            uses the end tokens of a config instead of its defaults.
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
    _add(sampling, config[_KEY], end)  # mlx_lm reads these instead of those in config.json
    for name, content in (("config.json", config), ("generation_config.json", sampling)):
        (folder / name).write_text(json.dumps(content, indent=4) + "\n")
    return True


def _add(part: dict[str, Any], others: Sequence[int], end: int) -> None:
    """List the part's own end tokens, then `others`, then the end of turn if it is not among them."""
    part[_KEY] = list(dict.fromkeys([*token_ids(part.get(_KEY)), *others, end]))


def _read(path: Path) -> dict[str, Any]:
    """The JSON object in a file; an empty one if the file is missing."""
    return read_object(path) if is_there(path) else {}
