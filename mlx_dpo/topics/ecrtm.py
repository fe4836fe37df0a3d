"""ECRTM: a neural topic model whose topics are clusters of word vectors.

Source: Wu et al. 2023, "Effective Neural Topic Modeling with Embedding Clustering Regularization", ICML,
arXiv:2306.04217. B documents, K topics, V words, E numbers a vector, H units of the encoder.
"""

from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..settings import LARGEST_WEIGHT, SMALLEST_DIVISOR, Section, setting
from .batch_norm import ShiftedBatchNorm
from .own_gradient import with_own_gradient
from .sinkhorn import transport_cost


@dataclass(frozen=True)
class TopicModelConfig(Section):
    """ECRTM: its sizes, and the parts of its loss."""

    topics: int = setting(
        50, "number of topics", least=2, most=10_000, also="num_topics n_topics k n_components"
    )
    encoder_size: int = setting(
        200, "units of each layer of the encoder", least=1, most=100_000, also="en1_units en_units"
    )
    embedding_size: int = setting(
        200,
        "numbers per word and topic vector; vectors from a file or an embedder have their own size",
        least=1,
        most=100_000,
        also="embed_size",
    )
    dropout: float = setting(0.0, "dropout after the encoder", least=0, below=1)
    temperature: float = setting(
        0.2,
        "temperature of the softmax over topics; smaller gives each word to fewer topics",
        least=SMALLEST_DIVISOR,
        most=1000,
        also="beta_temp",
    )
    ecr_weight: float = setting(
        100.0,
        "weight of the embedding clustering regularisation; larger keeps topics further apart. The paper has "
        "5 (AGNews), 60, 100 and 250",
        least=0,
        most=LARGEST_WEIGHT,
        also="weight_loss_ECR weight_ECR",
    )
    sinkhorn_alpha: float = setting(
        20.0, "sharpness of the transport between words and topics", above=0, most=1000
    )
    sinkhorn_iterations: int = setting(
        1000,
        "iterations of the transport at most; it usually ends after 51 to 251",
        least=1,
        most=100_000,
        also="sinkhorn_max_iter OT_max_iter",
    )


class TopicLosses(NamedTuple):
    """Parts of a batch's loss, () each: means over documents in nats, and the weighted regularisation."""

    reconstruction: mx.array
    kl: mx.array
    ecr: mx.array


class ECRTM(nn.Module):
    """Encoder, topic-word matrix and decoder.

    Args:
        vocabulary: number of words, V.
        words: float32 (V, E), where the word vectors start; None for random ones.
    """

    def __init__(self, vocabulary: int, config: TopicModelConfig, words: np.ndarray | None = None):
        super().__init__()
        self.config = config
        width, topics = config.encoder_size, config.topics
        self.hidden = nn.Linear(vocabulary, width)
        self.hidden2 = nn.Linear(width, width)
        # No bias: batch normalisation takes it away, and rounding alone would move it.
        self.mean = nn.Linear(width, topics, bias=False)
        self.log_variance = nn.Linear(width, topics, bias=False)
        self.mean_norm = ShiftedBatchNorm(topics)
        self.log_variance_norm = ShiftedBatchNorm(topics)
        self.decoder_norm = ShiftedBatchNorm(vocabulary)
        drawn = mx.random.truncated_normal(-2, 2, (vocabulary, config.embedding_size))
        self.word_vectors = _unit_rows(drawn if words is None else mx.array(words, mx.float32))
        self.topic_vectors = _unit_rows(mx.random.normal((topics, self.word_vectors.shape[1])))

    def distances(self) -> mx.array:
        """Squared distances between topic and word vectors, (K, V)."""
        t, w = self.topic_vectors, self.word_vectors
        return mx.square(t).sum(axis=1, keepdims=True) + mx.square(w).sum(axis=1) - 2 * t @ w.T

    def get_beta_logits(self) -> mx.array:
        """Topic-word logits, (K, V): −distance / temperature."""
        return -self.distances() / self.config.temperature

    def beta(self) -> mx.array:
        """Topic-word matrix, (K, V): a softmax over topics, so each word's column sums to 1."""
        return mx.softmax(self.get_beta_logits(), axis=0)

    def encode(self, bags: mx.array, kept: mx.array | float = 1.0) -> tuple[mx.array, mx.array]:
        """Mean and log-variance of the documents' topics before the softmax, (B, K) each.

        Args:
            bags: float32 (B, V), counts.
            kept: (B, H), the mask of dropout, already divided by the share of units that are kept.
        """
        mean, log_variance = self.before_norm(bags, kept)
        return self.mean_norm(mean), self.log_variance_norm(log_variance)

    def before_norm(self, bags: mx.array, kept: mx.array | float = 1.0) -> tuple[mx.array, mx.array]:
        """Mean and log-variance as `encode`, but before their batch norms, (B, K) each."""
        hidden = nn.softplus(self.hidden2(nn.softplus(self.hidden(bags)))) * kept
        return self.mean(hidden), self.log_variance(hidden)

    def freeze_words(self) -> None:
        """Train the word vectors no longer."""
        self.freeze(recurse=False, keys=["word_vectors"])

    def theta(self, bags: mx.array) -> mx.array:
        """Share of each topic in the documents, (B, K); the model must be in evaluation mode."""
        return mx.softmax(self.encode(bags)[0], axis=1)


def topic_losses(
    model: ECRTM, bags: mx.array, noise: mx.array, distances: mx.array, kept: mx.array | float = 1.0
) -> TopicLosses:
    """The parts of ECRTM's loss of a batch; their sum is minimised.

    Args:
        bags: float32 (B, V), counts, B at least 2.
        noise: (B, K), standard normal.
        distances: (K, V), those of the model.
        kept: the mask of dropout, see `ECRTM.encode`.
    """
    config = model.config
    mean, log_variance = model.encode(bags, kept)
    theta = mx.softmax(mean + mx.exp(0.5 * log_variance) * noise, axis=1)
    beta = mx.softmax(-distances / config.temperature, axis=0)
    reconstruction = word_loss(model.decoder_norm(theta @ beta), bags)
    ecr = transport_cost(distances, config.sinkhorn_alpha, config.sinkhorn_iterations)
    return TopicLosses(reconstruction, _kl(mean, log_variance), config.ecr_weight * ecr)


def word_loss(logits: mx.array, bags: mx.array) -> mx.array:
    """Mean over documents of −Σ counts · log softmax(logits), ().

    Value and gradient share the exponentials, which take most of the time.

    Args:
        logits, bags: (B, V).
    """

    def with_gradient(logits: mx.array) -> tuple[mx.array, mx.array]:
        highest = logits.max(axis=1, keepdims=True)
        grown = mx.exp(logits - highest)
        total = grown.sum(axis=1, keepdims=True)
        lengths = bags.sum(axis=1, keepdims=True)
        losses = lengths * (mx.log(total) + highest) - (bags * logits).sum(axis=1, keepdims=True)
        return losses.mean(), (grown * (lengths / total) - bags) / len(bags)

    return with_own_gradient(with_gradient, logits)


def _kl(mean: mx.array, log_variance: mx.array) -> mx.array:
    """KL divergence from the prior, (), averaged over documents.

    The prior is the Laplace approximation of a Dirichlet distribution with concentration 1: mean 0, variance
    1 − 1/K.
    """
    topics = mean.shape[1]
    variance = 1 - 1 / topics
    terms = (mx.exp(log_variance) + mx.square(mean)) / variance + np.log(variance).item() - log_variance
    return 0.5 * (terms.sum(axis=1) - topics).mean()


def _unit_rows(vectors: mx.array) -> mx.array:
    """The rows divided by their lengths; a row of zeros stays one."""
    return vectors / mx.maximum(mx.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
