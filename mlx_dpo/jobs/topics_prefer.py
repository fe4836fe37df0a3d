"""The command topics prefer: the preferences of a run's snapshot, or what they will cost."""

from pathlib import Path

from ..errors import DpoError
from ..storage.reading import is_there, path_text
from ..topics.config import TopicsConfig
from ..topics.corpus import read_corpus
from ..topics.preference_checks import check_models, check_preferences
from ..topics.preference_cost import TopicsEstimate, expected_cost, sample_words
from ..topics.preference_files import SELECTED
from ..topics.preferences import LOGITS, Preferences, answered, build_preferences, is_built, read_logits
from ..topics.top_words import log_beta, top_words
from ..topics.topic_words import KNOWN, TopicWords
from .topics_folder import PREFERENCES


def preferences_folder(config: TopicsConfig) -> Path:
    """Where a run keeps its snapshot and its preferences."""
    return Path(config.run.output) / PREFERENCES


def prefer(config: TopicsConfig) -> Preferences:
    """Build the preferences of the snapshot in a run's folder, as the run itself does.

    Raises:
        DpoError: there is no snapshot, or the run uses its preferences already; or as `build_preferences`.
    """
    folder, settings = preferences_folder(config), config.preferences
    corpus = read_corpus(config.corpus.folder)
    topics = len(read_logits(folder, len(corpus.vocabulary)))
    if is_there(folder / SELECTED):
        hint = "they are in this folder; to use others, train in another folder with --preferences FILE"
        raise DpoError("the run uses its preferences already", where=path_text(folder), hint=hint)
    check_preferences(settings, topics, corpus)
    if not is_built(folder):
        check_models(settings)
    return build_preferences(folder, corpus, settings)


def estimate_cost(config: TopicsConfig) -> TopicsEstimate:
    """What an LLM will be asked at most; nothing is sent, and no file is written.

    Without a snapshot, words of the vocabulary stand in for the top words.
    """
    folder, settings = preferences_folder(config), config.preferences
    corpus = read_corpus(config.corpus.folder)
    vocabulary = corpus.vocabulary
    if not is_there(folder / LOGITS):
        return expected_cost(sample_words(vocabulary, config.model.topics), settings)
    words = TopicWords(top_words(log_beta(read_logits(folder, len(vocabulary))), KNOWN), vocabulary)
    return expected_cost(words, settings, answered(folder, corpus, settings))
