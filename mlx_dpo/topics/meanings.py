"""Vectors of words and of short descriptions in the same space, for cosines between them."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from ..models.embedder import embed
from .corpus import Corpus
from .word_vectors import embedded, ppmi_svd
from .words import words_of

_SIZE = 200
"""Numbers of a vector from the corpus."""


class Meanings(NamedTuple):
    """`words`: unit vectors, float32 (V, size). `of`: texts to unit vectors, float32 (n, size).

    The vector of a word or text about which nothing is known is 0.
    """

    words: np.ndarray
    of: Callable[[Sequence[str]], np.ndarray]


def meanings(corpus: Corpus, embedder: str | None, seed: int) -> Meanings:
    """Vectors by a sentence-transformers model, or from the corpus itself.

    Args:
        seed: of the vectors from the corpus; a text's is the mean of its words' that are in the vocabulary.

    Raises:
        DpoError: as `models.embedder.embed`.
    """
    if embedder is not None:
        return Meanings(embedded(embedder, corpus.vocabulary), partial(embed, name=embedder))
    words = unit(ppmi_svd(corpus.bags, _SIZE, seed))

    def of(texts: Sequence[str]) -> np.ndarray:
        vectors = np.zeros((len(texts), words.shape[1]), np.float32)
        for row, text in enumerate(texts):
            known = [corpus.number[word] for word in words_of(text, (), 1) if word in corpus.number]
            vectors[row] = words[known].sum(axis=0)
        return unit(vectors)

    return Meanings(words, of)


def unit(vectors: np.ndarray) -> np.ndarray:
    """The rows divided by their lengths; rows of zeros stay zeros."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def nearest_words(meanings: Meanings, text: str | None, without: Sequence[int], count: int) -> list[int]:
    """The `count` words with the largest cosine to a text, the largest first; of equal ones, the first.

    Nothing is near to a text about which nothing is known.
    """
    if not text or not (vector := meanings.of([text])[0]).any():
        return []
    cosines = meanings.words @ vector
    cosines[list(without)] = -np.inf
    order = np.argsort(-cosines, kind="stable")[:count]
    return [int(word) for word in order if np.isfinite(cosines[word])]
