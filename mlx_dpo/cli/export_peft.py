"""mlx-dpo export peft"""

import click

from ..console import show, show_json
from .options import json_option, model_option, new_folder_option, prove_option, run_option


@click.command("peft")
@run_option
@new_folder_option("the exported adapter")
@click.option(
    "--base",
    metavar="NAME",
    help="Name on the Hub, or folder, of the unquantised base model; it is written into the export.",
)
@prove_option("transformers and PEFT", "PEFT")
@model_option
@json_option
def export_peft(folder, output, base, prove, model, as_json):
    """Write a run's adapter for PEFT, vLLM and llama.cpp.

    The folder has adapter_model.safetensors and adapter_config.json. Where transformers and PEFT are
    installed, it appears only if they compute the same log-probabilities as mlx_lm on rows of the run.

    \b
    Example:
      mlx-dpo export peft --run runs/granite-dpo --output exports/granite-dpo-peft
    """
    from ..jobs.export import export_peft_run

    made = export_peft_run(folder, output, base, model, prove)
    if as_json:
        proof = made.proof._asdict() if made.proof else None
        show_json(
            {
                "peft": str(made.folder),
                "rank": made.config["r"],
                "alpha": made.config["lora_alpha"],
                "notes": made.notes,
                "proof": proof,
            }
        )
        return
    show(f"PEFT adapter: {made.folder} (r {made.config['r']}, lora_alpha {made.config['lora_alpha']:g})")
    show(f"  {made.proof.text() if made.proof else 'not proved'}")
    for note in made.notes:
        show(f"  {note}")
