"""mlx-dpo inspect"""

import click

from ..console import show, show_json
from .options import (
    config_option,
    data_files,
    files_options,
    flags,
    json_option,
    repeated,
    resolve,
    set_option,
    setting_option,
)


@click.command()
@config_option
@files_options(
    "Pairs to inspect; data.valid of the settings file is then ignored.",
    "Held-out pairs, inspected too; no prompt may be in both files.",
)
@setting_option("--model", "model.path", "The base model.")
@click.option(
    "--rows",
    default=3,
    show_default=True,
    type=click.IntRange(0, 100_000),
    help="Number of pairs shown as the model gets them.",
)
@click.option("--no-model", is_flag=True, help="Skip what needs the model's weights.")
@set_option
@json_option
def inspect(config_file, data, valid, rows, no_model, overrides, as_json):
    """Check preference pairs before training.

    Prints every defect with its line, figures of the data, and advice. The exit code is 1 if no row can
    be trained on.

    \b
    Example:
      mlx-dpo inspect --config config/granite_dpo.yaml
      mlx-dpo inspect --config config/granite_dpo.yaml --data my_pairs.jsonl --no-model --json
    """
    overrides = [*data_files(data, valid), *overrides]
    config = resolve(config_file, overrides)
    from . import say_blas_note

    say_blas_note()
    from ..inspection.report import as_json as inspection_json
    from ..inspection.report import as_text
    from ..jobs.inspect import inspect_pairs

    def shell(step):
        again = " --no-model" if step.command == "inspect" and no_model else ""
        return repeated(step.command, config_file, [*overrides, *flags()], step.settings) + again

    found = inspect_pairs(config, rows, ask_model=not no_model)
    if as_json:
        show_json(inspection_json(found, shell), indent=1)
    else:
        show(as_text(found, shell))
    if not found.files[0].pairs:
        click.get_current_context().exit(1)
