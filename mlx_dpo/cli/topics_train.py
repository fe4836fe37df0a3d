"""mlx-dpo topics train"""

import click

from ..console import show, show_json
from .next_command import measuring_topics
from .options import (
    PATH,
    config_option,
    json_option,
    overwrite_option,
    resolve_topics,
    resume_option,
    set_option,
    setting_option,
)
from .topics_options import corpus_option


@click.command("train")
@config_option
@corpus_option
@setting_option("--preferences", "preferences.file", "Preferences to use, instead of building them.")
@click.option(
    "--snapshot",
    type=PATH,
    metavar="FOLDER",
    help="Begin at dpo.start_epoch, with the snapshot and the preferences of this run.",
)
@setting_option("--output", "run.output", "The run's folder.")
@overwrite_option
@resume_option
@set_option
@json_option
def topics_train(config_file, overrides, snapshot, overwrite, resume, as_json):
    """Train a topic model, and improve its weak topics with preferences from dpo.start_epoch on.

    \b
    Example:
      mlx-dpo topics train --config config/topics.yaml
      mlx-dpo topics train --corpus data/topics --set model.topics=20 --output runs/topics-20
      mlx-dpo topics train --config config/topics.yaml --snapshot runs/topics \\
        --output runs/topics-weight-3 --set dpo.weight=3

    To continue a run that was stopped or killed, give the same command again, without --overwrite: the run
    continues from its last checkpoint.
    """
    if overwrite and resume:
        raise click.UsageError("--overwrite starts a new run; it cannot be used with --resume")
    config = resolve_topics(config_file, overrides)
    from . import say_blas_note

    say_blas_note()
    from ..jobs.topics_train import train_topics

    run = train_topics(config, overwrite=overwrite, resume=resume, snapshot=snapshot)
    if as_json:
        show_json({"run": str(run.folder), "loss": run.loss, "stopped": run.stopped})
        return
    show(f"run: {run.folder}")
    show(f"top words: {run.folder / 'top_words_10.txt'}")
    show(f"next: {measuring_topics(run.folder)}")
