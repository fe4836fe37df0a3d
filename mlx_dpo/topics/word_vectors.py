"""Vectors of words: from the corpus itself, from a file, or from a sentence embedder."""

from codecs import BOM_UTF8
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..console import plural, say
from ..errors import DpoError, quoted
from ..models.embedder import embed
from ..storage.reading import opened, path_text

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

_LINES = "each line needs a word and its numbers, with blanks between; unpack a compressed file first"
_POWER_ITERATIONS = 7
"""Of the randomised SVD: more give no better vectors (Halko et al. 2011, section 4.5)."""


def ppmi_svd(bags: "csr_matrix", size: int, seed: int) -> np.ndarray:
    """Vectors from which words occur in the same documents, float32 (V, size).

    PPMI(i, j) = max(0, ln(p(i, j) / (p(i) p(j)))) over pairs of different words in a document, factored by an
    SVD: U √S. With fewer than `size` words, the last columns are 0.

    Args:
        bags: counts (documents, V); only whether a word is in a document counts.
        seed: of the randomised SVD.

    Source: Levy and Goldberg 2014, "Neural Word Embedding as Implicit Matrix Factorization", section 3.
    """
    from scipy.sparse import csr_matrix
    from sklearn.utils.extmath import randomized_svd

    inside = (bags > 0).astype(np.float64)
    pairs = (inside.T @ inside).tocsr()
    pairs.setdiag(0)
    pairs.eliminate_zeros()
    sums = np.asarray(pairs.sum(axis=1)).ravel()
    pairs = pairs.tocoo()
    pmi = np.log(pairs.data * sums.sum() / (sums[pairs.row] * sums[pairs.col]))
    kept = pmi > 0
    ppmi = csr_matrix((pmi[kept], (pairs.row[kept], pairs.col[kept])), shape=pairs.shape)
    count = min(size, pairs.shape[0])
    left, values, _ = randomized_svd(ppmi, count, n_iter=_POWER_ITERATIONS, random_state=seed)
    vectors = np.zeros((pairs.shape[0], size), np.float32)
    vectors[:, :count] = left * np.sqrt(values)
    return vectors


def read_glove(path: Path | str, vocabulary: Sequence[str]) -> np.ndarray:
    """Vectors of a file with a word and its numbers on each line, float32 (V, size); says the coverage.

    Words that the file does not have get zeros. Blank lines are left out, and a first line with two whole
    numbers, as word2vec writes it.

    Raises:
        DpoError: the file cannot be read, a line has another number of numbers, or no word is known.
    """
    numbers = {word: index for index, word in enumerate(vocabulary)}
    name, vectors, size = path_text(path), np.zeros((len(vocabulary), 0), np.float32), 0
    found = set()
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            if number == 1:
                line = line.removeprefix(BOM_UTF8)
            parts = line.rstrip().replace(b"\t", b" ").split(b" ")
            if parts == [b""] or (number == 1 and len(parts) == 2):
                continue
            if not size:
                size = len(parts) - 1
                vectors = np.zeros((len(vocabulary), size), np.float32)
            where = f"{name}:{number}"
            if size < 1 or len(parts) <= size:
                what = f"has {plural(max(0, len(parts) - 1), 'number')}"
                what += f", the first line has {size:,}" if size else ""
                raise DpoError(what, where=where, hint=_LINES)
            word = b" ".join(parts[:-size]).decode("utf-8", errors="replace")  # a few have blanks inside
            if word not in numbers or word in found:
                continue
            found.add(word)
            vectors[numbers[word]] = _numbers(parts[-size:], where)
    if not found:
        hint = "give a file of vectors in the language of the texts, with words in lower case"
        raise DpoError(f"has none of the {len(vocabulary):,} words", where=name, hint=hint)
    say(f"{name}: vectors of {len(found):,} of {len(vocabulary):,} words, {size} numbers each")
    return vectors


def _numbers(parts: Sequence[bytes], where: str) -> np.ndarray:
    try:
        values = np.array([float(part) for part in parts], np.float32)
    except ValueError:
        values = np.array([np.nan])
    if not np.isfinite(values).all():
        what = f"is not a vector: {quoted(b' '.join(parts).decode(errors='replace'))}"
        raise DpoError(what, where=where, hint=_LINES)
    return values


def embedded(embedder: str, vocabulary: Sequence[str]) -> np.ndarray:
    """Unit vectors by a sentence-transformers model, float32 (V, size); errors as for `embed`."""
    return embed(vocabulary, embedder)
