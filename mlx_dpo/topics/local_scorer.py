"""Scores, descriptions and preferences without an LLM: by cosines between vectors of words.

A word fits a theme if it is one of the words nearest to the theme, and at least half as near as the five
nearest. As many words are near as a topic has if all topics have equally many, V / K, but at least 25.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from .meanings import Meanings
from .topic_words import DESCRIBED, KNOWN, SCORED, TopicWords
from .win_lose import WinLose

_COHERENT, _RELATED = 0.8, 0.5
"""Shares of the scored words that fit, for a score of 3 and of 2."""
_NAMED = 5
"""Words in a description."""
_APART = 2
"""Difference between the numbers of winners and losers up to which losers are looked for."""


class LocalScorer:
    """Judges the words of topics by their vectors; the same words always get the same judgement."""

    def __init__(self, words: TopicWords, meanings: Meanings):
        self._words, self._meanings = words, meanings
        self._near = max(KNOWN, len(words.vocabulary) // len(words.top))

    def scores(self) -> dict[int, int | None]:
        """3: at least 80 % of the top 15 words fit the theme that they share; 2: at least half; 1: fewer."""
        return {k: self._score(k) for k in self._words.topics}

    def _score(self, topic: int) -> int:
        indices = self._words.indices(topic, 0, SCORED)
        share = float(self._fits(self._themes(topic)[0])[indices].mean())
        return 3 if share >= _COHERENT else 2 if share >= _RELATED else 1

    def descriptions(self, scores: Mapping[int, int | None]) -> dict[int, str | None]:
        """The five words of each topic's theme; with a score of 1, of a theme unlike the other topics'."""
        found = {k: self._themes(k)[0] for k in self._words.topics if scores[k] != 1}
        for k in self._words.topics:
            if scores[k] == 1:
                found[k] = self._distinct(self._themes(k), list(found.values()))
        return dict(sorted(found.items()))

    def preferences(
        self, descriptions: Mapping[int, str | None], extra: Mapping[int, Sequence[int]]
    ) -> dict[int, WinLose]:
        """Words that fit the description win, top words that do not lose.

        If there are too few losers, other words that do not fit lose too, the farthest first.
        """
        return {k: self._preferred(k, text, extra[k]) for k, text in descriptions.items() if text}

    def _preferred(self, topic: int, text: str, extra: Sequence[int]) -> WinLose:
        top, others = self._words.indices(topic, 0, SCORED), self._words.candidates(topic, extra)
        fits, cosines = self._fits(text), self._cosines(text)
        win = [index for index in (*top, *others) if fits[index]]
        lose = [index for index in top if not fits[index]]
        more = sorted((index for index in others if not fits[index]), key=lambda index: cosines[index])
        lose += more[: max(0, len(win) - _APART - len(lose))]
        return WinLose(tuple(win), tuple(lose))

    def _themes(self, topic: int) -> list[str]:
        """Themes that the words of a topic may have, the likeliest first.

        Each is a word with the four words of the topic that are nearest to it. The word that is nearest to
        the others on average comes first; of equally near ones, the higher ranked.
        """
        indices = self._words.indices(topic, 0, DESCRIBED)
        vectors = self._meanings.words[indices]
        cosines = vectors @ vectors.T
        np.fill_diagonal(cosines, 0)
        order = np.argsort(-cosines.sum(axis=1).round(5), kind="stable")
        np.fill_diagonal(cosines, np.inf)
        nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :_NAMED]
        words = self._words.vocabulary
        return [" ".join(words[indices[place]] for place in nearest[centre]) for centre in order]

    def _distinct(self, themes: Sequence[str], taken: Sequence[str]) -> str:
        """The theme that is least like those that are taken; the first, if none is."""
        if not taken:
            return themes[0]
        likeness = (self._meanings.of(themes) @ self._meanings.of(taken).T).max(axis=1)
        return themes[int(likeness.round(5).argmin())]

    def _cosines(self, text: str) -> np.ndarray:
        return self._meanings.words @ self._meanings.of([text])[0]

    def _fits(self, text: str) -> np.ndarray:
        """Whether each word of the vocabulary fits a theme, bool (V,)."""
        cosines = self._cosines(text)
        order = np.argsort(-cosines, kind="stable")
        fits = np.zeros(len(cosines), bool)
        fits[order[: self._near]] = True
        return fits & (cosines >= cosines[order[:_NAMED]].mean() / 2)
