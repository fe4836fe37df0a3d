"""Answers of the policy to a few held-out prompts during training: is its language still intact?"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mlx.nn as nn

from ..metrics import distinct_n
from ..models.generate import Answer, GenerateConfig, generate_answers
from ..randomness import random_untouched
from ..storage.jsonl import append_jsonl, read_jsonl
from ..storage.reading import is_there

SAMPLES = "samples.jsonl"


class Asked(NamedTuple):
    """Prompts of held-out rows as text, and as lists of token ids."""

    texts: Sequence[str]
    tokens: Sequence[Sequence[int]]


def sample_answers(policy: nn.Module, tokenizer: Any, asked: Asked, most: int) -> list[Answer]:
    """Greedy answers of at most `most` tokens, in the order of the prompts."""
    greedy = GenerateConfig(max_tokens=most, temperature=0.0, batch_size=len(asked.tokens))
    training = policy.training
    try:
        with random_untouched():
            return sorted(generate_answers(policy, tokenizer, asked.tokens, greedy))
    finally:
        policy.train(training)


def first_answers(folder: Path) -> dict[str, str]:
    """The first answer to every prompt in samples.jsonl; empty if there is no such file."""
    rows = [row for _, row in read_jsonl(folder / SAMPLES)] if is_there(folder / SAMPLES) else []
    return {row["prompt"]: row["answer"] for row in reversed(rows)}


def sample_metrics(
    asked: Asked, answers: Sequence[Answer], first: Mapping[str, str], tokenizer: Any
) -> dict[str, float]:
    """How varied, how long and how new the answers are: means over all answers.

    Args:
        first: the first answer to each prompt, see `first_answers`.

    `samples/distinct_4`: distinct runs of four tokens as a share of all runs in an answer, 1 if all answers
    are shorter; `samples/tokens`; `samples/capped`: share of answers that were cut off;
    `samples/unchanged`: share of answers that are identical to the first ones.
    """
    same = [answer.text == first[text] for text, answer in zip(asked.texts, answers, strict=True)]
    ids = [tokenizer.encode(answer.text, add_special_tokens=False) for answer in answers]
    distinct = [share for own in ids if (share := distinct_n(own, 4)) is not None]
    return {
        "samples/distinct_4": sum(distinct) / len(distinct) if distinct else 1.0,
        "samples/tokens": sum(answer.tokens for answer in answers) / len(answers),
        "samples/capped": sum(answer.capped for answer in answers) / len(answers),
        "samples/unchanged": sum(same) / len(same),
    }


def write_samples(folder: Path, step: int, texts: Iterable[str], answers: Iterable[Answer]) -> None:
    """Append one row per answer to samples.jsonl.

    Raises:
        DpoError: the file cannot be written.
    """
    asked = zip(texts, answers, strict=True)
    rows = [{"step": step, "prompt": text, "answer": answer.text} for text, answer in asked]
    append_jsonl(folder / SAMPLES, rows)
