"""How alike two answers are, as gen-pairs measures it."""

from rapidfuzz.distance import Indel


def alike(first: str, second: str, least: float) -> bool:
    """Whether the texts are at least this similar (0 to 1), case and spacing aside.

    The measure is the share of characters of both that the longest common subsequence holds: 1 for the same
    text, 0.9 for "abcdefghij" and "abcdefghiX".
    """
    a, b = normalised(first), normalised(second)
    both = len(a) + len(b)
    # From a text that is less alike than this, the library turns away early; the line below decides.
    cutoff = max(0, int(least * both) - 1)
    return not both or Indel.similarity(a, b, score_cutoff=cutoff) / both >= least


def normalised(text: str) -> str:
    """The text without case and spacing."""
    return " ".join(text.casefold().split())
