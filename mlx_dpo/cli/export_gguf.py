"""mlx-dpo export gguf"""

from pathlib import Path

import click
from click.core import ParameterSource

from ..console import show, show_json
from ..printed_commands import command_line, path_word
from .exported import show_exported
from .options import (
    json_option,
    max_kl_ratio_option,
    model_option,
    new_folder_option,
    prove_option,
    run_option,
)

_OF_MODELS = {"type_": "--type", "system": "--system", "prove": "--prove", "max_kl_ratio": "--max-kl-ratio"}
"""Options that an adapter alone does not have."""


@click.command("gguf")
@run_option
@new_folder_option("the GGUF file and the Modelfile")
@click.option(
    "--type",
    "type_",
    type=click.Choice(["f32", "f16", "bf16", "q8_0"]),
    default="f16",
    show_default=True,
    help="How matrices are stored; norms stay float32.",
)
@click.option("--lora", is_flag=True, help="Write only the adapter, for llama.cpp's --lora.")
@click.option("--system", metavar="TEXT", help="System prompt for the Modelfile.")
@max_kl_ratio_option(
    "Largest KL(adapter || export) / KL(adapter || base); a file above it is not written. f32 of a float32 "
    "base is not compared: nothing is rounded."
)
@prove_option("llama.cpp", "xllamacpp")
@model_option
@json_option
def export_gguf(folder, output, type_, lora, system, max_kl_ratio, prove, model, as_json):
    """Write the fused model as GGUF, for llama.cpp, Ollama and LM Studio.

    \b
    Example:
      mlx-dpo export gguf --run runs/granite-dpo --output models/granite-dpo-gguf --type q8_0
    """
    from ..export.how_to_run import llama_with_lora
    from ..export.own_template import FILE as TEMPLATE
    from ..jobs.export import export_gguf_lora_run, export_gguf_run

    if lora:
        context = click.get_current_context()
        for name, flag in _OF_MODELS.items():
            if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
                raise click.UsageError(f"{flag} is for a whole model; it cannot be used with --lora")
        file = str(export_gguf_lora_run(folder, output, model))
        if as_json:
            show_json({"exported": file})
        else:
            show(f"exported adapter: {file}")
            template = Path(file).parent / TEMPLATE
            show(f"next: {llama_with_lora(file, str(template) if template.exists() else None)}")
        return
    result = export_gguf_run(folder, output, type_, model, prove, system, max_kl_ratio)
    if as_json:
        show_json(result)
    else:
        show_exported(result["exported"], result)
        show(f"next: {command_line(['ollama', 'create', 'NAME', '-f', path_word(result['modelfile'])])}")
