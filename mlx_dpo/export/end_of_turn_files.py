"""The end of turn in the config files of a model folder, so that other programs stop at it too."""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from ..models.config_files import CONFIG, SAMPLING
from ..models.end_of_turn import token_ids
from ..storage.reading import is_there, read_object

NAMES = (CONFIG, SAMPLING)
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
    before = read_configs(folder)
    after = with_end(*before, end, stops)
    if after == before:
        return False
    for name, content in zip(NAMES, after, strict=True):
        (folder / name).write_text(json.dumps(content, indent=4) + "\n")
    return True


def with_end(
    config: Mapping[str, Any], sampling: Mapping[str, Any], end: int, stops: Sequence[int]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The content of both files with the end of turn; see `list_end`."""
    config, sampling = deepcopy(dict(config)), deepcopy(dict(sampling))
    text = config.get("text_config") or {}
    listed = [part for part in (text, sampling) if token_ids(part.get(_KEY))]
    if all(end in token_ids(part.get(_KEY)) for part in (config, *listed)):
        return config, sampling
    _add(config, token_ids(config.get(_KEY)) or stops, end)
    if token_ids(text.get(_KEY)):
        _add(text, [], end)
    if not sampling:
        sampling = {name: config[name] for name in ("bos_token_id", "pad_token_id") if name in config}
    _add(sampling, config[_KEY], end)  # mlx_lm reads these instead of those in config.json
    return config, sampling


def read_configs(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The content of config.json and of generation_config.json; empty for a file that is missing."""
    config, sampling = (read_object(folder / name) if is_there(folder / name) else {} for name in NAMES)
    return config, sampling


def _add(part: dict[str, Any], others: Sequence[int], end: int) -> None:
    """List the part's own end tokens, then `others`, then the end of turn if it is not among them."""
    part[_KEY] = list(dict.fromkeys([*token_ids(part.get(_KEY)), *others, end]))
