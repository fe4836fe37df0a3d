"""Options that commands for topic models share."""

import click

from .options import PATH, setting_option

corpus_option = setting_option("--corpus", "corpus.folder", "Folder with the bags of words.")
corpus_now_option = click.option(
    "--corpus",
    type=PATH,
    metavar="FOLDER",
    help="Where the corpus is now; by default where it was when the run was made.",
)
topics_run_option = click.option(
    "--run", "folder", required=True, type=PATH, metavar="FOLDER", help="A run folder of topics train."
)
