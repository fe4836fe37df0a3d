"""What an update minimises: ECRTM's loss, and from a snapshot on the loss of preferences between words."""

from typing import NamedTuple

import mlx.core as mx

from .ecrtm import ECRTM, topic_losses
from .topic_dpo import WordPairs, anchor_loss, topic_dpo_loss
from .training_config import TopicDpoConfig


class Guidance(NamedTuple):
    """What guides the topics after the snapshot.

    `reference`: float32 (K, V), topic-word logits of the snapshot. `pairs`: preferences of the topics that
    were chosen; None if there are none. `others`: int32 (N,), the topics without preferences. `digest`: names
    this content.
    """

    reference: mx.array
    pairs: WordPairs | None
    others: mx.array
    digest: str


class Batch(NamedTuple):
    """Counts of words, float32 (B, V); noise, (B, K); the mask of dropout, (B, H), or 1."""

    bags: mx.array
    noise: mx.array
    kept: mx.array | float


def draw_batch(bags: mx.array, model: ECRTM, keys: tuple[mx.array, mx.array]) -> Batch:
    """A batch with its noise and its mask of dropout.

    Args:
        keys: random keys of both.
    """
    config, documents = model.config, len(bags)
    noise = mx.random.normal((documents, config.topics), key=keys[0])
    if not config.dropout:
        return Batch(bags, noise, 1.0)
    mask = mx.random.bernoulli(1 - config.dropout, (documents, config.encoder_size), key=keys[1])
    return Batch(bags, noise, mask / (1 - config.dropout))


def loss_terms(
    model: ECRTM, batch: Batch, guidance: Guidance | None, dpo: TopicDpoConfig
) -> tuple[mx.array, dict[str, mx.array]]:
    """The loss of a batch, (), and its weighted terms by name, () each, of which it is the sum."""
    distances = model.distances()
    terms = topic_losses(model, batch.bags, batch.noise, distances, batch.kept)._asdict()
    if guidance:
        logits = -distances / model.config.temperature
        if guidance.pairs:
            terms["dpo"] = dpo.weight * topic_dpo_loss(logits, guidance.reference, guidance.pairs, dpo.alpha)
        if dpo.anchor_weight and len(guidance.others):
            terms["anchor"] = dpo.anchor_weight * anchor_loss(logits, guidance.reference, guidance.others)
    return sum(terms.values()), terms
