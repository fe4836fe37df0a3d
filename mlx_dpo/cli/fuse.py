"""mlx-dpo fuse"""

import click

from ..console import show, show_json
from ..export.precisions import PRECISIONS
from .options import PATH, json_option, max_kl_ratio_option, model_option, new_folder_option, run_option


@click.command()
@run_option
@new_folder_option("the fused model")
@model_option
@click.option(
    "--precision",
    type=click.Choice(list(PRECISIONS)),
    help="; ".join(f"{name}: {what}" for name, what in PRECISIONS.items())
    + ".  [default: auto if the base is quantised, else plain]",
)
@max_kl_ratio_option(
    "Largest KL(adapter || fused) / KL(adapter || base); a fused model above it is not written. The "
    "same limit holds for / KL(adapter || start) if the run began from an adapter (model.adapter)."
)
@click.option(
    "--base",
    "original",
    type=PATH,
    metavar="PATH",
    help="The unquantised model from which a quantised base was made: the adapter is added to its weights, "
    "which are then quantised once.",
)
@click.option(
    "--data",
    type=PATH,
    metavar="FILE",
    multiple=True,
    help="Rows to compare on; by default the held-out rows of the run, else those it was trained on.",
)
@json_option
def fuse(folder, output, model, precision, max_kl_ratio, original, data, as_json):
    """Merge a run's adapter into its base model.

    The result is a new model folder, which needs no adapter. It is compared with the adapter on a few rows: a
    fused model that does not behave like the adapter is not written. Figures are in its likeness.json.

    \b
    Example:
      mlx-dpo fuse --run runs/granite-dpo --output models/granite-dpo
      mlx-dpo fuse --run runs/granite-4bit --output models/granite-4bit --precision mixed
    """
    from ..export.fuse_report import read_report, summary
    from ..jobs.fuse import fuse_folder
    from ..jobs.generate_commands import ask_fused
    from ..jobs.open_run import open_run, say_if_unfinished

    config = open_run(folder, model)
    say_if_unfinished(folder, config)
    path = fuse_folder(
        folder,
        output,
        model,
        precision=precision,
        max_kl_ratio=max_kl_ratio,
        original=original,
        data=list(data) or None,
    )
    likeness = read_report(path)
    if as_json:
        show_json({"fused": str(path), "likeness": likeness})
    else:
        show(f"fused model: {path}")
        show(f"compared: {summary(likeness)}")
        show(f"next: {ask_fused(path, config)}")
