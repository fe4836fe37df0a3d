"""A topic model on disk: its weights, and what it says about words and documents."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from ..errors import DpoError
from ..storage.files import with_replacement, write_text
from ..storage.reading import opened, path_text
from .batches import dense
from .corpus import Corpus
from .ecrtm import ECRTM
from .top_words import FILES, write_top_words

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

WEIGHTS, VOCABULARY = "model.safetensors", "vocab.txt"
BETA = "beta.npy"
THETA, TEST_THETA = "theta_train.npy", "theta_test.npy"
RESULTS = (WEIGHTS, VOCABULARY, BETA, THETA, TEST_THETA, *FILES)
"""The files that `write_results` writes."""
_VECTORS = ("word_vectors", "topic_vectors")
_BATCH = 1000


def save_weights(model: ECRTM, folder: Path) -> None:
    """Write every array of the model, running statistics included."""
    arrays = dict(tree_flatten(model.parameters()))
    with_replacement(folder / WEIGHTS, lambda beside: mx.save_safetensors(str(beside), arrays))


def load_weights(model: ECRTM, folder: Path) -> None:
    """Set every array of the model; word vectors may have another size than before.

    Raises:
        ValueError: the file has other arrays, or arrays of other sizes.
    """
    arrays = mx.load(str(folder / WEIGHTS))
    own = {name: value.shape for name, value in tree_flatten(model.parameters())}
    sized = {name: value.shape for name, value in arrays.items() if name not in _VECTORS}
    if arrays.keys() != own.keys() or any(own[name] != shape for name, shape in sized.items()):
        raise ValueError(f"{WEIGHTS} is of a model with other sizes")
    model.update(tree_unflatten(list(arrays.items())))


def settle_norms(model: ECRTM, bags: "csr_matrix") -> None:
    """Set the statistics of the encoder's batch norms to those of all documents.

    Running statistics are of the last updates, in which the weights moved. In a topic whose output hardly
    varies, they miss its mean by more than its spread, so that it leads in every document, or in none.
    """
    outputs = [np.array(mx.stack(model.before_norm(own))) for own in _batches(bags)]
    both = np.concatenate(outputs, axis=1).astype(np.float64)
    for norm, values in zip((model.mean_norm, model.log_variance_norm), both, strict=True):
        norm.running_mean = mx.array(values.mean(axis=0), mx.float32)
        norm.running_variance = mx.array(values.var(axis=0), mx.float32)


def document_topics(model: ECRTM, bags: "csr_matrix") -> np.ndarray:
    """Share of each topic in the documents, float32 (documents, K), without noise."""
    model.eval()
    return np.concatenate([np.array(model.theta(own)) for own in _batches(bags)])


def _batches(bags: "csr_matrix") -> Iterator[mx.array]:
    rows = np.split(np.arange(bags.shape[0]), range(_BATCH, bags.shape[0], _BATCH))
    return (dense(bags, own) for own in rows)


def topic_word_logits(model: ECRTM) -> np.ndarray:
    """Topic-word logits, float32 (K, V)."""
    return np.array(model.get_beta_logits())


def write_results(model: ECRTM, corpus: Corpus, folder: Path) -> None:
    """Settle the model's batch norms, see `settle_norms`, and write what it says.

    model.safetensors; float32 arrays: beta.npy (K, V), theta_train.npy and, if documents are held out,
    theta_test.npy (documents, K); vocab.txt, one word a line; top_words_N.txt and .jsonl.
    """
    settle_norms(model, corpus.bags)
    save_weights(model, folder)
    write_text(folder / VOCABULARY, "".join(f"{word}\n" for word in corpus.vocabulary))
    write_array(folder / BETA, np.array(model.beta()))
    write_array(folder / THETA, document_topics(model, corpus.bags))
    if corpus.test:
        write_array(folder / TEST_THETA, document_topics(model, corpus.test.bags))
    write_top_words(folder, topic_word_logits(model), corpus.vocabulary)


def read_matrix(path: Path, *, rows: int | None = None, columns: int | None = None, hint: str) -> np.ndarray:
    """A matrix of finite numbers from NAME.npy, (rows, columns), as `write_array` wrote it.

    Args:
        rows, columns: how many it must have; None: one at least.
        hint: the remedy.

    Raises:
        DpoError: the file is missing or has something else.
    """
    try:
        with opened(path, hint) as file:
            found = np.load(file, allow_pickle=False)
    except DpoError:
        raise
    except Exception:  # NumPy parses the header as Python: a damaged one can raise any error
        found = None
    if not isinstance(found, np.ndarray) or found.dtype.kind != "f":
        raise DpoError("is not an array of numbers by NumPy", where=path_text(path), hint=hint)
    if (
        found.ndim != 2
        or not found.size
        or rows not in (None, len(found))
        or columns not in (None, found.shape[1])
    ):
        wanted = ", ".join("1 or more" if n is None else str(n) for n in (rows, columns))
        raise DpoError(f"has the shape {found.shape}, not ({wanted})", where=path_text(path), hint=hint)
    if not np.isfinite(found).all():
        raise DpoError("has a value that is not finite", where=path_text(path), hint=hint)
    return found


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an array as NAME.npy, completely or not at all."""
    with_replacement(path, partial(np.save, arr=array))
