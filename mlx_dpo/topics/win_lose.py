"""Preferences between the words of a topic."""

from typing import NamedTuple


class WinLose(NamedTuple):
    """Vocabulary indices of words that should rank higher in a topic, and of words that should rank lower."""

    win: tuple[int, ...]
    lose: tuple[int, ...]
