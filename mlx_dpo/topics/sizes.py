"""Whether a topic model of this size can be trained on a corpus, on this machine."""

from ..errors import DpoError
from ..machine.resources import memory_limit
from .config import TopicsConfig
from .corpus import Corpus

_COPIES = 4
"""Of the weights: themselves, their gradient and two moments of Adam."""


def check_sizes(config: TopicsConfig, corpus: Corpus) -> None:
    """Check that there are enough words for the topics, and that an update fits into memory.

    Raises:
        DpoError: it does not.
    """
    topics, words = config.model.topics, len(corpus.vocabulary)
    if topics > words:
        raise DpoError(
            f"is {topics:,}, but the corpus has {words:,} words",
            where="model.topics",
            hint="ask for fewer topics than words; 50 topics suit thousands of words",
        )
    need, limit = update_bytes(config, corpus), memory_limit()
    if need > limit:
        raise DpoError(
            f"with {words:,} words an update needs at least {need / 1e9:.1f} GB, but the machine has "
            f"{limit / 1e9:.1f} GB for it",
            where="model",
            hint="lower training.batch_size, model.encoder_size, model.embedding_size, model.topics or "
            "corpus.vocabulary_size",
        )


def update_bytes(config: TopicsConfig, corpus: Corpus) -> int:
    """Bytes that an update takes at least: the weights, a batch, and the matrices of topics by words."""
    own, words = config.model, len(corpus.vocabulary)
    width, topics = own.encoder_size, own.topics
    vectors = 0 if config.word_vectors.source in ("file", "embedder") else own.embedding_size
    weights = words * width + width**2 + 2 * width * topics + (words + topics) * vectors
    documents = min(config.training.batch_size, corpus.bags.shape[0])
    batch = documents * (2 * words + 2 * width + 4 * topics)  # bags and reconstruction; hidden; topics
    return 4 * (_COPIES * weights + batch + 2 * topics * words)
