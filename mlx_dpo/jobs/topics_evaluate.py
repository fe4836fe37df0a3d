"""The command topics eval: the figures of a run's model on the corpus that it was trained on."""

from pathlib import Path

from ..errors import DpoError
from ..storage.reading import is_folder, path_text
from ..topics.config import load_topics_config
from ..topics.corpus import Corpus, read_corpus
from ..topics.evaluation import TopicFigures, evaluate_topics
from .open_run import SETTINGS, is_topics_run


def evaluate_topics_run(folder: Path, corpus: str | None = None) -> TopicFigures:
    """The figures of a finished run.

    Args:
        corpus: where the corpus is now; None: where it was.

    Raises:
        DpoError: the folder has no finished run, or the corpus is another one.
    """
    return evaluate_topics(folder, corpus_of(folder, corpus))


def corpus_of(folder: Path, corpus: str | None) -> Corpus:
    """The corpus of the run in a folder, or the one in the folder `corpus`.

    Raises:
        DpoError: the folder has no run, or there is no corpus.
    """
    if not is_topics_run(folder):
        hint = "give the folder that mlx-dpo topics train wrote"
        raise DpoError("contains no run of a topic model", where=path_text(folder), hint=hint)
    place = corpus or load_topics_config(folder / SETTINGS).corpus.folder
    if not is_folder(place):
        hint = "name the folder where the corpus is now with --corpus"
        raise DpoError("is not a folder with a corpus", where=path_text(place), hint=hint)
    return read_corpus(place)
