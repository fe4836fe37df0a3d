"""A topic model on disk: its weights, and what it says about words and documents."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from ..storage.files import with_replacement
from .batches import dense
from .corpus import Corpus
from .ecrtm import ECRTM
from .top_words import write_top_words

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

WEIGHTS, BETA = "model.safetensors", "beta.npy"
_BATCH = 1000


def save_weights(model: ECRTM, folder: Path) -> None:
    """Write every array of the model, running statistics included."""
    arrays = dict(tree_flatten(model.parameters()))
    with_replacement(folder / WEIGHTS, lambda beside: mx.save_safetensors(str(beside), arrays))


def load_weights(model: ECRTM, folder: Path) -> None:
    """Set every array of the model.

    Raises:
        ValueError: the file is of a model with other sizes.
    """
    model.load_weights(str(folder / WEIGHTS), strict=True)


def document_topics(model: ECRTM, bags: "csr_matrix") -> np.ndarray:
    """Share of each topic in the documents, float32 (documents, K), without noise."""
    model.eval()
    rows = np.split(np.arange(bags.shape[0]), range(_BATCH, bags.shape[0], _BATCH))
    return np.concatenate([np.array(model.theta(dense(bags, own))) for own in rows])


def topic_word_logits(model: ECRTM) -> np.ndarray:
    """Topic-word logits, float32 (K, V)."""
    return np.array(model.get_beta_logits())


def write_results(model: ECRTM, corpus: Corpus, folder: Path) -> None:
    """Write what the model says.

    model.safetensors, beta.npy (K, V), theta_train.npy and, with held-out documents, theta_test.npy
    (documents, K), all float32; top_words_N.txt and .jsonl.
    """
    save_weights(model, folder)
    write_array(folder / BETA, np.array(model.beta()))
    write_array(folder / "theta_train.npy", document_topics(model, corpus.bags))
    if corpus.test:
        write_array(folder / "theta_test.npy", document_topics(model, corpus.test.bags))
    write_top_words(folder, topic_word_logits(model), corpus.vocabulary)


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an array as NAME.npy, completely or not at all."""
    with_replacement(path, partial(np.save, arr=array))
