"""mlx-dpo fuse"""

import click

from ..console import show, show_json
from .options import PATH, json_option, model_option


@click.command()
@click.option(
    "--run", "folder", required=True, type=PATH, metavar="FOLDER", help="A run folder of mlx-dpo train."
)
@click.option(
    "--output",
    required=True,
    type=PATH,
    metavar="FOLDER",
    help="Folder for the fused model; must not exist yet.",
)
@model_option
@json_option
def fuse(folder, output, model, as_json):
    """Merge a run's adapter into its base model.

    The result is a new model folder, which needs no adapter.

    \b
    Example:
      mlx-dpo fuse --run runs/granite-dpo --output models/granite-dpo
    """
    from ..export.fuse import fuse_run
    from ..jobs.generate_commands import ask_fused
    from ..jobs.open_run import open_run, say_if_unfinished

    config = open_run(folder, model)
    say_if_unfinished(folder, config)
    path = fuse_run(config.model.path, folder, output, config.model)
    if as_json:
        show_json({"fused": str(path)})
    else:
        show(f"fused model: {path}")
        show(f"next: {ask_fused(path, config)}")
