"""Coherence of topics: how often their top words occur together in texts, by gensim."""

from collections.abc import Callable, Sequence

import numpy as np

from .libraries import check_libraries


def c_v(texts: Sequence[str], vocabulary: Sequence[str], top: np.ndarray) -> np.ndarray:
    """C_V of each topic, float64 (K,).

    Each top word gets the vector of its NPMI with all top words, in windows of 110 words; the score is the
    mean cosine between these vectors and their sum.

    Args:
        texts: documents, as words with blanks between them.
        top: (K, n), vocabulary indices of top words. A word that is in no text gets a vector of zeros, and a
            cosine of 0.

    Source: Röder et al. 2015, "Exploring the Space of Topic Coherence Measures".
    """
    return _coherence(texts, vocabulary, top, "c_v", lambda known, all_words: known / all_words)


def npmi(texts: Sequence[str], vocabulary: Sequence[str], top: np.ndarray) -> np.ndarray:
    """NPMI of each topic, float64 (K,), in [−1, 1]: the mean over pairs of top words, in windows of 10 words.

    npmi(i, j) = ln((p(i, j) + 1e-12) / (p(i) p(j))) / −ln(p(i, j) + 1e-12)

    Args:
        texts: as for `c_v`.
        top: (K, n), vocabulary indices. The NPMI of a word that is in no text is 0.

    Source: Bouma 2009, "Normalized (Pointwise) Mutual Information in Collocation Extraction".
    """
    return _coherence(texts, vocabulary, top, "c_npmi", lambda known, n: known * (known - 1) / (n * (n - 1)))


def _coherence(
    texts: Sequence[str],
    vocabulary: Sequence[str],
    top: np.ndarray,
    measure: str,
    share: Callable[[int, int], float],
) -> np.ndarray:
    """The measure of each topic's words that are in the texts, times their share of what it averages over.

    gensim divides by the frequency of each word, which must not be 0.
    """
    check_libraries()
    documents = [text.split() for text in texts]
    known = {word for document in documents for word in document}
    topics = [[word for word in (vocabulary[index] for index in row) if word in known] for row in top]
    scores = np.zeros(len(topics))
    for length in {len(words) for words in topics} - {0, 1}:
        places = [place for place, words in enumerate(topics) if len(words) == length]
        found = _by_gensim(documents, vocabulary, [topics[place] for place in places], measure)
        scores[places] = found * share(length, top.shape[1])
    return scores


def _by_gensim(
    documents: list[list[str]], vocabulary: Sequence[str], topics: list[list[str]], measure: str
) -> np.ndarray:
    from gensim.corpora import Dictionary
    from gensim.models import CoherenceModel

    model = CoherenceModel(
        topics=topics,
        texts=documents,
        dictionary=Dictionary([list(vocabulary)]),
        coherence=measure,
        topn=len(topics[0]),
        processes=1,
    )
    return np.array(model.get_coherence_per_topic(), np.float64)
