"""The command topics prefer: the preferences of a run's snapshot, or what they will cost."""

from pathlib import Path

from ..storage.reading import is_there
from ..topics.config import TopicsConfig
from ..topics.corpus import read_corpus
from ..topics.preference_cost import TopicsEstimate, expected_cost, sample_words
from ..topics.preferences import LOGITS, Preferences, build_preferences, read_logits
from ..topics.top_words import log_beta, top_words
from ..topics.topic_words import KNOWN, TopicWords
from .topics_folder import PREFERENCES


def preferences_folder(config: TopicsConfig) -> Path:
    """Where a run keeps its snapshot and its preferences."""
    return Path(config.run.output) / PREFERENCES


def prefer(config: TopicsConfig) -> Preferences:
    """Build the preferences of the snapshot in a run's folder, as the run itself does.

    Raises:
        DpoError: there is no snapshot; or as `build_preferences`.
    """
    return build_preferences(
        preferences_folder(config), read_corpus(config.corpus.folder), config.preferences
    )


def estimate_cost(config: TopicsConfig) -> TopicsEstimate:
    """What an LLM will be asked at most; nothing is sent, and no file is written.

    Without a snapshot, words of the vocabulary stand in for the top words.
    """
    vocabulary, folder = read_corpus(config.corpus.folder).vocabulary, preferences_folder(config)
    words = sample_words(vocabulary, config.model.topics)
    if is_there(folder / LOGITS):
        words = TopicWords(top_words(log_beta(read_logits(folder, len(vocabulary))), KNOWN), vocabulary)
    return expected_cost(words, config.preferences)
