"""The weights of a model folder, checked by their headers: complete, and for how many tokens."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..errors import DpoError, first_ten
from ..storage.reading import files_in, is_there, opened, path_text, read_object
from .foreign_weights import foreign_weights

DOWNLOAD = "download the model again"
_INDEX = "model.safetensors.index.json"
_SHARD = re.compile(r"(model.*-)(\d+)(-of-)(\d+)(\.safetensors)")


def weight_files(folder: Path, where: str, *, required: bool = True) -> list[Path]:
    """The files that mlx_lm loads, with complete headers; may be empty if they are not `required`.

    Args:
        where: the folder as the user named it.

    Raises:
        DpoError: a file is missing, damaged or unreadable, or the weights have another format.
    """
    files = files_in(folder, "model*.safetensors")
    if not files and not required:
        return []
    if not files:
        raise foreign_weights(folder, where) or DpoError(
            "has a config.json but no model*.safetensors",
            where=where,
            hint=f"the weights are missing; {DOWNLOAD}",
        )
    _check_complete(folder, {file.name for file in files})
    for file in files:
        check_tensors(file, DOWNLOAD)
    return files


def _check_complete(folder: Path, names: set[str]) -> None:
    """Check that no part is missing, by the index or by the numbers in the file names.

    An index that does not list every file in the folder is an old one and is ignored.
    """
    index = folder / _INDEX
    if is_there(index):
        table = read_object(index, DOWNLOAD).get("weight_map")
        if not isinstance(table, dict) or not all(isinstance(name, str) for name in table.values()):
            raise DpoError("has no weight_map of file names", where=index, hint=DOWNLOAD)
        named = set(table.values())
        missing = sorted(map(path_text, named - names))
        if missing and names <= named:
            verb = "is" if len(missing) == 1 else "are"
            what = f"names {first_ten(missing)}, which {verb} missing"
            raise DpoError(what, where=index, hint=DOWNLOAD)
    elif missing := sorted(_numbered(names) - names):
        what = f"{first_ten(missing)} {'is' if len(missing) == 1 else 'are'} missing"
        raise DpoError(what, where=folder, hint=DOWNLOAD)


def _numbered(names: Iterable[str]) -> set[str]:
    """All names of a set such as "model-00001-of-00002.safetensors", from any of them."""
    found = set()
    for match in filter(None, map(_SHARD.fullmatch, names)):
        before, number, of, count, end = match.groups()
        if int(count) < 10_000:
            found |= {f"{before}{part:0{len(number)}}{of}{count}{end}" for part in range(1, int(count) + 1)}
    return found


def check_tensors(file: Path, hint: str) -> dict[str, mx.array]:
    """The arrays of a safetensors file, not loaded yet, if the file is complete by its header.

    Raises:
        DpoError: the file is incomplete, with `hint`, or cannot be read.
    """
    with opened(file, hint) as content:
        content.read(1)
    try:
        return mx.load(str(file))
    except (RuntimeError, ValueError):
        raise DpoError("is damaged or incomplete", where=file, hint=hint) from None


_EMBEDDINGS = re.compile(r"(.*\.)?(embed_tokens|tok_embeddings|wte|word_embeddings|embed_in)\.weight")
_ELSEWHERE = ("vision", "visual", "audio", "encoder", "mtp")


def embedded_tokens(folder: Path, config: Mapping[str, Any]) -> int | None:
    """Number of token ids in the model's embedding: rows of the weights, else vocab_size of the config.

    None if neither says.
    """
    rows = [
        array.shape[0]
        for file in files_in(folder, "model*.safetensors")
        for name, array in check_tensors(file, DOWNLOAD).items()
        if _EMBEDDINGS.fullmatch(name) and not any(part in name for part in _ELSEWHERE)
    ]
    text = config.get("text_config")
    sizes = [part.get("vocab_size") for part in (config, text) if isinstance(part, dict)]
    return next((n for n in (*rows, *sizes) if isinstance(n, int) and n > 0), None)
