"""Rules about several pairs at once: which are left out, and which prompts stay on one side of the split."""

from collections import Counter
from collections.abc import Mapping, Sequence

from ..data.prompt_clusters import asked, clusters
from ..data.similarity import alike
from ..data.splits import prompt_key
from ..models.embedder import embed
from ..records import Message
from .config import PairsConfig

Pair = tuple[Sequence[Message], str, str]
"""Prompt, chosen and rejected answer."""

NEAR_IDENTICAL, OFF_TOPIC, TOO_MANY = "near-identical", "off the topic", "beyond pairs.per_prompt"
REMEDIES = {
    NEAR_IDENTICAL: "the two answers hardly differ; raise pairs.max_similarity to keep them, or "
    "remove these rows",
    OFF_TOPIC: "the chosen answer has little to do with its prompt; look at these rows, or lower "
    "pairs.min_relevance to keep them",
    TOO_MANY: "earlier rows have as many pairs of the same prompt; raise pairs.per_prompt to keep more",
}
"""Reasons for which a pair is left out, each with the remedy."""


def drop_reasons(pairs: Sequence[Pair], config: PairsConfig) -> list[str | None]:
    """For each pair why it is left out, a key of REMEDIES, or None.

    Raises:
        DpoError: as `embed`.
    """
    off_topic = _off_topic(pairs, config)
    kept: Counter[str] = Counter()
    reasons: list[str | None] = []
    for (prompt, chosen, rejected), off in zip(pairs, off_topic, strict=True):
        key, reason = prompt_key(prompt), None
        if alike(chosen, rejected, config.max_similarity):
            reason = NEAR_IDENTICAL
        elif off:
            reason = OFF_TOPIC
        elif config.per_prompt and kept[key] == config.per_prompt:
            reason = TOO_MANY
        kept[key] += not reason
        reasons.append(reason)
    return reasons


def _off_topic(pairs: Sequence[Pair], config: PairsConfig) -> list[bool]:
    """Whether the chosen answer has a smaller cosine with its prompt than `min_relevance`."""
    if not (config.embedder and config.min_relevance):
        return [False] * len(pairs)
    prompts = embed([asked(prompt) for prompt, _, _ in pairs], config.embedder)
    answers = embed([chosen for _, chosen, _ in pairs], config.embedder)
    return ((prompts * answers).sum(axis=1) < config.min_relevance).tolist()


def clusters_of(prompts: Sequence[Sequence[Message]], config: PairsConfig) -> Mapping[str, int]:
    """The cluster of each prompt by its `prompt_key`; empty without an embedder.

    Raises:
        DpoError: as `embed`.
    """
    if not config.embedder:
        return {}
    texts = {prompt_key(prompt): asked(prompt) for prompt in prompts}
    found = clusters(embed([*texts.values()], config.embedder), config.max_prompt_similarity)
    return dict(zip(texts, found.tolist(), strict=True))
