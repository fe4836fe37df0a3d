"""The top words of all topics, as the stages of the preferences look at them."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

SCORED, DESCRIBED, KNOWN = 15, 20, 25
"""Top words from which a topic is scored and described, and all that are looked at."""


class TopicWords(NamedTuple):
    """`top`: vocabulary indices, (K, n), the first word first; n is at most KNOWN."""

    top: np.ndarray
    vocabulary: Sequence[str]

    @property
    def topics(self) -> range:
        """0 to K − 1."""
        return range(len(self.top))

    def indices(self, topic: int, start: int, end: int) -> list[int]:
        """Indices of the words from rank `start` on and before rank `end`; ranks count from 0."""
        return [int(index) for index in self.top[topic, start:end]]

    def first(self, topic: int, count: int) -> list[str]:
        """The first words of a topic."""
        return [self.vocabulary[index] for index in self.indices(topic, 0, count)]

    def numbered(self, indices: Iterable[int]) -> dict[str, int]:
        """Words with their indices, in this order."""
        return {self.vocabulary[index]: index for index in indices}

    def candidates(self, topic: int, extra: Sequence[int]) -> list[int]:
        """Words that may be better than the scored ones: those ranked after them, and extra words."""
        return list(dict.fromkeys([*self.indices(topic, SCORED, KNOWN), *extra]))
