"""Kinds of folders with a result of a run, and which of their files may leave the machine."""

from pathlib import Path
from typing import NamedTuple

from ..errors import DpoError
from ..models.adapters import CONFIG as ADAPTER_CONFIG
from ..models.adapters import WEIGHTS
from ..models.foreign_weights import PEFT_WEIGHTS
from ..storage.reading import files_in
from .fuse_report import FILE as LIKENESS
from .own_template import FILE as TEMPLATE

_WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
_MODEL = ("config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json")
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "tiktoken.model",
    "*.tiktoken",
    TEMPLATE,
    "chat_template.json",
)
_TERMS = ("LICENSE*", "NOTICE*", "USE_POLICY*")


class Kind(NamedTuple):
    """A kind of folder.

    `what`: in words; `weights`, `others`: names of its files, as patterns; every other file stays on the
    machine. `relation`: base_model_relation. `library`, `tag`: of the model card. `replaces`: a new upload
    replaces the weights of an earlier one; without it, several files of weights are offered side by side.
    `program`: the one that an export is compared with.
    """

    what: str
    weights: tuple[str, ...]
    others: tuple[str, ...]
    relation: str
    library: str
    tag: str
    replaces: bool = True
    program: str = ""


KINDS = {
    "adapter": Kind(
        "the adapter of a run, for mlx_lm",
        (WEIGHTS,),
        (ADAPTER_CONFIG, TEMPLATE),
        relation="adapter",
        library="mlx",
        tag="mlx",
    ),
    "peft": Kind(
        "an adapter for PEFT and vLLM",
        PEFT_WEIGHTS[:1],
        (ADAPTER_CONFIG, TEMPLATE),
        relation="adapter",
        library="peft",
        tag="peft",
        program="PEFT",
    ),
    "fused": Kind(
        "a fused model for mlx_lm",
        _WEIGHTS,
        (*_MODEL, *_TOKENIZER, *_TERMS, LIKENESS),
        relation="finetune",
        library="mlx",
        tag="mlx",
    ),
    "hf": Kind(
        "a fused model for transformers and vLLM",
        _WEIGHTS,
        (*_MODEL, *_TOKENIZER, *_TERMS),
        relation="finetune",
        library="transformers",
        tag="transformers",
        program="transformers",
    ),
    "gguf": Kind(
        "a fused model as GGUF",
        ("*.gguf",),
        ("Modelfile",),
        relation="finetune",
        library="gguf",
        tag="gguf",
        replaces=False,
        program="llama.cpp",
    ),
    "gguf-lora": Kind(
        "an adapter as GGUF, for llama.cpp",
        ("*.gguf",),
        (TEMPLATE,),
        relation="adapter",
        library="gguf",
        tag="gguf",
        replaces=False,
        program="llama.cpp",
    ),
}


def files_of(folder: Path, kind: Kind) -> list[Path]:
    """The files of this folder that may leave the machine, sorted by name.

    Raises:
        DpoError: the folder has no weights of this kind, or cannot be read.
    """
    if not files_in(folder, *kind.weights):
        raise DpoError(
            f"has no weights ({' or '.join(kind.weights)}): it is not {kind.what}",
            where=folder,
            hint="give a run folder, or a folder that mlx-dpo fuse or mlx-dpo export wrote",
        )
    return [file for file in files_in(folder, *kind.weights, *kind.others) if file.is_file()]
