"""mlx-dpo push"""

import click

from ..console import plural, show, show_json
from ..printed_commands import beside
from .options import PATH, json_option


@click.command()
@click.argument("source", type=PATH, metavar="SOURCE")
@click.argument("repo", metavar="OWNER/NAME")
@click.option(
    "--run",
    type=PATH,
    metavar="FOLDER",
    help="The run from which SOURCE was made; by default the one that SOURCE names.",
)
@click.option(
    "--base-model", metavar="NAME", help="The base model's name on the Hub, if it was trained from a folder."
)
@click.option(
    "--license", "licence", metavar="NAME", help="The base model's licence, if its card is not found."
)
@click.option("--private", is_flag=True, help="Make a new repository private.")
@click.option(
    "--samples",
    type=click.IntRange(0, 100),
    help="Number of held-out prompts that the card shows, with the answers before and after training.  "
    "[default: 3]",
)
@click.option("--dry-run", is_flag=True, help="Write what would be uploaded into a folder; make no request.")
@click.option(
    "--output", type=PATH, metavar="FOLDER", help="Folder of a dry run.  [default: beside SOURCE, NAME-hub]"
)
@click.option(
    "--lm-studio",
    is_flag=True,
    help="Upload nothing; put a fused model or a GGUF where LM Studio looks for models.",
)
@json_option
def push(source, repo, run, base_model, licence, private, samples, dry_run, output, lm_studio, as_json):
    """Upload a run's result to the Hub, with a model card.

    SOURCE is a run folder (its adapter is uploaded), or a folder that fuse or export wrote. The card is made
    from the files of the run, and shows held-out prompts. Only weights, configs, tokenizer and card leave
    this machine. The token is HF_TOKEN, or the token that `hf auth login` saved.

    \b
    Example:
      mlx-dpo push runs/granite-dpo OWNER/granite-dpo --dry-run
      mlx-dpo push models/granite-dpo OWNER/granite-dpo --private
      mlx-dpo push models/granite-dpo OWNER/granite-dpo --lm-studio
    """
    from ..jobs import push as job

    if output and not dry_run:
        raise click.UsageError("--output is the folder of a --dry-run")
    if lm_studio:
        if dry_run or private or licence or base_model or run or samples is not None:
            raise click.UsageError("with --lm-studio nothing is uploaded: give only SOURCE and OWNER/NAME")
        folder = str(job.lm_studio(source, repo))
        if as_json:
            show_json({"lm_studio": folder})
        else:
            show(f"for LM Studio: {folder}")
        return
    asked = {"run": run, "base_model": base_model, "licence": licence}
    asked |= {} if samples is None else {"samples": samples}
    if dry_run:
        output = output or beside(source, "hub")
        made = job.dry_run(source, repo, output, **asked)
        told = {"written": output}
    else:
        made, address = job.push(source, repo, private=private, **asked)
        told = {"address": address}
    if as_json:
        show_json({**told, "files": sorted(made.files)})
        return
    if dry_run:
        show(f"written: {output} ({plural(len(made.files), 'file')}; the card is README.md)")
        show("next: read the card, then give the command again without --dry-run")
        return
    show(f"uploaded: {address}")
    for recipe in made.recipes:
        show("\n".join(["", f"{recipe.program}:", recipe.code, *(f"  {note}" for note in recipe.notes)]))
