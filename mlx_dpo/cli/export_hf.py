"""mlx-dpo export hf"""

import click

from ..console import show, show_json
from .options import json_option, model_option, new_folder_option, prove_option, run_option


@click.command("hf")
@run_option
@new_folder_option("the exported model")
@prove_option("transformers", "torch")
@model_option
@json_option
def export_hf(folder, output, prove, model, as_json):
    """Write the fused model in the Hub's layout, for transformers, vLLM and llama.cpp.

    \b
    Example:
      mlx-dpo export hf --run runs/granite-dpo --output models/granite-dpo-hf
    """
    from ..jobs.export import export_hf_run

    result = export_hf_run(folder, output, model, prove)
    if as_json:
        show_json(result)
    else:
        show(f"exported model: {output}")
        show(result["proof"])
