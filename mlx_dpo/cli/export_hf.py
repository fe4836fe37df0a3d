"""mlx-dpo export hf"""

import click

from ..console import show, show_json
from .options import PATH, json_option, model_option


@click.command("hf")
@click.option(
    "--run", "folder", required=True, type=PATH, metavar="FOLDER", help="A run folder of mlx-dpo train."
)
@click.option(
    "--output",
    required=True,
    type=PATH,
    metavar="FOLDER",
    help="Folder for the exported model; must not exist yet.",
)
@click.option(
    "--prove/--no-prove",
    default=None,
    help="Compare the export in transformers with MLX.  [default: if torch is installed]",
)
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
