"""Write a fused model as a GGUF file, for llama.cpp, Ollama and LM Studio, with a Modelfile for Ollama."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from ..data.conversation_tokens import end_of_turn
from ..models.load import ModelConfig, load_tokenizer
from ..storage.files import replace_folder
from .gguf_fields import FILE_TYPES, Field, architecture, model_fields, text_model
from .gguf_file import BYTES_A_NUMBER, check_installed, write_gguf
from .gguf_tensors import GgufTensor, gguf_tensors
from .gguf_tokenizer import tokenizer_fields
from .hub_model import Source, open_tensors, read_source
from .made_from import write_made_from
from .ollama import check_system, modelfile
from .start import find_base, named, without_weights


class GgufContent(NamedTuple):
    """What a GGUF file of a model holds."""

    architecture: str
    fields: list[Field]
    tensors: list[GgufTensor]
    type: str


def export_gguf(
    model_path: str,
    adapter: Path | str,
    output: Path | str,
    type: str = "f16",
    asked: ModelConfig | None = None,
    prove: Callable[[Path, Source], Mapping[str, str] | None] | None = None,
    *,
    system: str | None = None,
    first: Callable[[Path], None] | None = None,
) -> Path:
    """Write base weights plus adapter as a folder with a GGUF file and a Modelfile; returns the GGUF file.

    Args:
        type: of the matrices: f32, f16, bf16 or q8_0; norms and other vectors are float32.
        asked: the model settings of the run; the file gets their chat template.
        prove: called with the finished folder before it gets its name; raises if the file is wrong; may
            return checks, as in `MadeFrom`.
        system: system prompt for the Modelfile.
        first: called with the base's folder after all checks that are fast, before weights are loaded.

    Raises:
        DpoError: files do not fit, llama.cpp has no such architecture or tokenizer, the output exists, or the
            disk is full.
    """
    output = Path(output)
    check_installed()
    check_system(system or "")
    base = find_base(model_path, adapter, output)
    check_possible(base, asked)
    tensors = open_tensors(base, output, BYTES_A_NUMBER[type])
    if first:
        first(base)
    source = read_source(base, tensors, adapter, asked)
    del tensors
    content = gguf_content(source, type, output.name)
    name = f"{output.name}-{type}.gguf"

    def write(folder: Path) -> None:
        write_gguf(folder / name, content.architecture, content.fields, content.tensors, type)
        (folder / "Modelfile").write_text(
            modelfile(name, source.tokenizer, source.end, system), encoding="utf-8"
        )
        checks = None
        content.tensors.clear()
        if prove:
            with named(folder, output):
                checks = prove(folder, source)
        write_made_from(folder, output, "gguf", adapter, checks)

    replace_folder(output, write)
    return output / name


def check_possible(base: Path, asked: ModelConfig | None) -> None:
    """Check by the config and the tokenizer, before weights are loaded, that llama.cpp has such a model.

    Raises:
        DpoError: it has not.
    """
    model_type, model = without_weights(base)
    kind = architecture(model_type, model, base)
    model_fields(kind, model, base)
    tokenizer = load_tokenizer(base, asked)
    tokenizer_fields(base, tokenizer, end_of_turn(tokenizer), text_model(model).args.vocab_size)


def gguf_content(source: Source, type: str, name: str) -> GgufContent:
    """What the file of a fused model holds.

    Raises:
        DpoError: llama.cpp has no such architecture or tokenizer.
    """
    model = source.fused.model
    kind = architecture(str(source.config.get("model_type")), model, source.base)
    tensors = gguf_tensors(kind, model, source.tensors, source.base)
    rows = next(tensor.shape[0] for tensor in tensors if tensor.name == "token_embd.weight")
    fields = [
        Field("general.type", "string", "model"),
        Field("general.name", "string", name),
        Field("general.file_type", "uint32", FILE_TYPES[type]),
        Field("general.quantization_version", "uint32", 2),
        *model_fields(kind, model, source.base),
        *tokenizer_fields(source.base, source.tokenizer, source.end, rows),
    ]
    return GgufContent(kind, fields, tensors, type)
