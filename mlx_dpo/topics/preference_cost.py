"""What asking an LLM about topics will cost at most, before any request is sent."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..judges.estimate import CHARACTERS_PER_TOKEN, Estimate
from .llm_questions import (
    COMPARE,
    DESCRIBE,
    SCORE,
    Question,
    description_question,
    preferences_question,
    score_question,
)
from .preferences_config import PreferencesConfig
from .topic_words import DESCRIBED, KNOWN, SCORED, TopicWords

_WRITTEN = {SCORE: 15, DESCRIBE: 20, COMPARE: 120}
"""Tokens of a reply by its function, about."""
_DESCRIPTION = "a description of six words"


@dataclass(frozen=True)
class TopicsEstimate(Estimate):
    """Requests about topics; those that repeat an unreadable reply are not included."""

    noun: ClassVar[str] = "topic"

    def __str__(self) -> str:
        if not self.requests:
            return super().__str__()
        more = (self.prompt_tokens + self.completion_tokens) // self.requests  # the reply is shown again
        return f"{super().__str__()}; an unreadable reply adds a request of about {more:,} prompt tokens"


def expected_cost(
    words: TopicWords, settings: PreferencesConfig, answered: Collection[tuple[str, int]] = ()
) -> TopicsEstimate:
    """The cost of the questions about these topics.

    Args:
        answered: questions that are not asked any more, as function and topic.
    """
    questions = [
        question
        for k in words.topics
        for question in _questions(k, words)
        if (question.function, k) not in answered
    ]
    prompt = sum(map(_characters, questions)) // CHARACTERS_PER_TOKEN
    written = sum(min(_WRITTEN[question.function], settings.max_tokens) for question in questions)
    price = settings.price(prompt, written)
    return TopicsEstimate(len(words.top), len(questions), prompt, written, price)


def _questions(topic: int, words: TopicWords) -> list[Question]:
    top = words.numbered(words.indices(topic, 0, SCORED))
    others = words.numbered(words.indices(topic, SCORED - 5, KNOWN))  # five words stand in for the extra ones
    return [
        score_question(topic, words.first(topic, SCORED)),
        description_question(topic, words.first(topic, DESCRIBED)),
        preferences_question(topic, _DESCRIPTION, top, others),
    ]


def _characters(question: Question) -> int:
    request = question.request(1)
    return len(json.dumps([request.messages, request.schema], ensure_ascii=False))


def sample_words(vocabulary: list[str], topics: int) -> TopicWords:
    """Words of the vocabulary in place of top words that are not known yet."""
    count = min(KNOWN, len(vocabulary))
    places = (np.arange(topics)[:, None] * count + np.arange(count)) % len(vocabulary)
    return TopicWords(places, vocabulary)
