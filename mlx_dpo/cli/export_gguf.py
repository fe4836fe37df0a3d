"""mlx-dpo export gguf"""

import click

from ..console import show, show_json
from ..export.precisions import MAX_KL_RATIO
from .options import json_option, model_option, new_folder_option, prove_option, run_option


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
@click.option(
    "--max-kl-ratio",
    type=click.FloatRange(0, min_open=True),
    default=MAX_KL_RATIO,
    show_default=True,
    help="Largest KL(adapter || file) / KL(adapter || base); a file above it is not written. f32 is exact.",
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
    from ..jobs.export import export_gguf_lora_run, export_gguf_run

    if lora:
        file = str(export_gguf_lora_run(folder, output, model))
        if as_json:
            show_json({"exported": file})
        else:
            show(f"exported adapter: {file}")
            show(f"next: llama-cli -m BASE.gguf --lora {file}")
        return
    result = export_gguf_run(folder, output, type_, model, prove, system, max_kl_ratio)
    if as_json:
        show_json(result)
    else:
        show(f"exported model: {result['exported']}")
        show(result["proof"])
        if "compared" in result:
            show(f"compared with the adapter: {result['compared']}")
        show(f"next: ollama create NAME -f {result['modelfile']}")
