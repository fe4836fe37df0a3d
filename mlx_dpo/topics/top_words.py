"""The words that each topic has more than other topics have, as indices and as files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..storage.files import write_text
from ..storage.jsonl import write_jsonl

LENGTHS = (10, 15, 20, 25)
"""Words per topic in the files."""
FILES = tuple(f"top_words_{count}.{kind}" for count in LENGTHS for kind in ("txt", "jsonl"))


def log_beta(logits: np.ndarray) -> np.ndarray:
    """Logarithm of the topic-word matrix, a softmax over topics, float64 (K, V).

    It orders the words of a topic as ECRTM's β does, also where β itself rounds to 1.
    """
    logits = logits.astype(np.float64)
    largest = logits.max(axis=0)
    return logits - largest - np.log(np.exp(logits - largest).sum(axis=0))


def top_words(scores: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` largest scores of each topic, the largest first; equal ones by index.

    Args:
        scores: (K, V), V at least `count`: β, or `log_beta`.
    """
    return np.argsort(-scores, axis=1, kind="stable")[:, :count]


def write_top_words(
    folder: Path,
    logits: np.ndarray,
    vocabulary: Sequence[str],
    about: Mapping[int, Mapping[str, Any]] | None = None,
) -> None:
    """Write top_words_N.txt and top_words_N.jsonl for N of LENGTHS; a small vocabulary gives shorter lists.

    Args:
        about: for each topic, "main meaning" and "llm_score" where they are known.
    """
    for count in LENGTHS:
        indices = top_words(log_beta(logits), count).tolist()
        lines = [" ".join(vocabulary[word] for word in topic) for topic in indices]
        write_text(folder / f"top_words_{count}.txt", "".join(f"{line}\n" for line in lines))
        rows = [_row(k, topic, vocabulary, (about or {}).get(k, {})) for k, topic in enumerate(indices)]
        write_jsonl(folder / f"top_words_{count}.jsonl", rows)


def _row(
    topic: int, indices: Sequence[int], vocabulary: Sequence[str], about: Mapping[str, Any]
) -> dict[str, Any]:
    known = {"k": topic, "main meaning": about.get("main meaning"), "llm_score": about.get("llm_score")}
    return {**known, "top_words": [{vocabulary[word]: word} for word in indices]}
