"""mlx-dpo topics prepare"""

from dataclasses import asdict

import click

from ..console import show, show_json
from .next_command import after_preparing
from .options import (
    config_option,
    json_option,
    overwrite_option,
    resolve_topics,
    set_option,
    setting_option,
)


@click.command("prepare")
@config_option
@setting_option("--source", "corpus.source", "Texts: a text file, a folder of them, or rows.")
@setting_option("--test", "corpus.test", "Texts that are held out; by default a share of the source.")
@setting_option("--field", "corpus.field", "Field or column of the rows with the text.")
@setting_option("--label", "corpus.label", "Field or column with a label.")
@setting_option("--output", "corpus.folder", "Folder for the bags of words.")
@overwrite_option
@set_option
@json_option
def topics_prepare(config_file, overrides, overwrite, as_json):
    """Turn texts into bags of words, and print what was kept.

    A text file has one document on each line; of a folder, each text file is a document.

    \b
    Example:
      mlx-dpo topics prepare --source news.jsonl --field text --label section --output data/topics
      mlx-dpo topics prepare --source letters.txt --set corpus.vocabulary_size=2000
    """
    config = resolve_topics(config_file, overrides)
    from ..topics.prepare import prepare

    prepared = prepare(config.corpus, overwrite=overwrite)
    if as_json:
        show_json(asdict(prepared))
        return
    show(str(prepared))
    show(f"next: {after_preparing(config.corpus.folder, config_file, overrides)}")
