"""mlx-dpo export hf"""

import click

from ..console import show_json
from .exported import show_exported
from .options import (
    json_option,
    max_kl_ratio_option,
    model_option,
    new_folder_option,
    prove_option,
    run_option,
)


@click.command("hf")
@run_option
@new_folder_option("the exported model")
@max_kl_ratio_option(
    "Largest KL(adapter || export) / KL(adapter || base); an export above it is not written. A float32 base "
    "is not compared: nothing is rounded."
)
@prove_option("transformers", "torch")
@model_option
@json_option
def export_hf(folder, output, max_kl_ratio, prove, model, as_json):
    """Write the fused model in the Hub's layout, for transformers, vLLM and llama.cpp.

    \b
    Example:
      mlx-dpo export hf --run runs/granite-dpo --output models/granite-dpo-hf
    """
    from ..jobs.export import export_hf_run

    result = export_hf_run(folder, output, model, prove, max_kl_ratio)
    if as_json:
        show_json(result)
    else:
        show_exported(output, result)
