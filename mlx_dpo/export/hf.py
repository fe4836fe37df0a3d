"""Write a fused model as a folder in the Hub's layout, which transformers, vLLM and llama.cpp read."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import mlx.core as mx

from ..console import progress, say
from ..models.end_of_turn import mlx_lm_stops
from ..models.load import ModelConfig
from ..storage.files import replace_folder
from ..storage.reading import read_object
from .end_of_turn_files import list_end
from .hub_model import Source, open_tensors, read_source, text_files
from .made_from import write_made_from
from .own_template import write_own_template
from .safetensors_file import write_safetensors
from .start import find_base, named

_SHARD_BYTES = 5 * 10**9
"""Most bytes in one file."""


def export_hf(
    model_path: str,
    adapter: Path | str,
    output: Path | str,
    asked: ModelConfig | None = None,
    prove: Callable[[Path, Source], Mapping[str, str] | None] | None = None,
    *,
    first: Callable[[Path], None] | None = None,
    shard_bytes: int = _SHARD_BYTES,
) -> Path:
    """Write base weights plus adapter with the names, axes and files that the base has on the Hub.

    Tensors that training did not touch keep the bits of the base. A quantised base becomes plain.

    Args:
        asked: the model settings of the run; the export gets their chat template.
        prove: called with the finished folder before it gets its name; raises if the folder is wrong; may
            return checks, as in `MadeFrom`.
        first: called with the base's folder after all checks that are fast, before weights are loaded.

    Raises:
        DpoError: files do not fit, the layout is not known, the output exists, or the disk is full.
    """
    output = Path(output)
    base = find_base(model_path, adapter, output)
    tensors = open_tensors(base, output)
    if first:
        first(base)
    source = read_source(base, tensors, adapter, asked)
    del tensors

    def write(folder: Path) -> None:
        write_hub_folder(folder, source, asked, shard_bytes)
        checks = None
        if prove:
            with named(folder, output):
                checks = prove(folder, source)
        write_made_from(folder, output, "hf", adapter, checks)

    replace_folder(output, write)
    return output


def write_hub_folder(folder: Path, source: Source, asked: ModelConfig | None, shard_bytes: int) -> None:
    """Fill an empty folder."""
    for file in text_files(source.base):
        shutil.copyfile(file, folder / file.name)
    (folder / "config.json").write_text(json.dumps(source.config, indent=2) + "\n")
    if write_own_template(folder, source.tokenizer, asked):
        _remove_base_template(folder)
    stops = mlx_lm_stops(source.base, source.tokenizer)
    if list_end(folder, source.end, stops):
        token = source.tokenizer.convert_ids_to_tokens(source.end)
        say(f"the base model does not list the end of turn {token}: it is added to the config files")
    write_shards(folder, source.tensors, shard_bytes)


def _remove_base_template(folder: Path) -> None:
    """Leave chat_template.jinja as the only chat template of the folder."""
    (folder / "chat_template.json").unlink(missing_ok=True)
    settings = folder / "tokenizer_config.json"
    if settings.exists() and "chat_template" in (content := read_object(settings)):
        del content["chat_template"]
        settings.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_shards(folder: Path, tensors: Mapping[str, mx.array], shard_bytes: int) -> None:
    """Write safetensors files of at most `shard_bytes` each, with an index if there are several."""
    groups = _groups(tensors, shard_bytes)
    index: dict[str, str] = {}
    with progress("writing", len(tensors), "tensors") as advance:
        for number, names in enumerate(groups, 1):
            several = f"-{number:05}-of-{len(groups):05}" if len(groups) > 1 else ""
            file = f"model{several}.safetensors"
            write_safetensors(folder / file, names, tensors, {"format": "pt"}, advance)
            index |= dict.fromkeys(names, file)
    if len(groups) > 1:
        total = sum(value.nbytes for value in tensors.values())
        table = {"metadata": {"total_size": total}, "weight_map": dict(sorted(index.items()))}
        (folder / "model.safetensors.index.json").write_text(json.dumps(table, indent=2) + "\n")


def _groups(tensors: Mapping[str, mx.array], shard_bytes: int) -> list[list[str]]:
    """Names in order, in groups of at most `shard_bytes`; a larger tensor is a group by itself."""
    groups: list[list[str]] = [[]]
    size = 0
    for name, value in tensors.items():
        if groups[-1] and size + value.nbytes > shard_bytes:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += value.nbytes
    return groups
