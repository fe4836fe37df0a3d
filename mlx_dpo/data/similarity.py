"""How similar two answers are, as gen-pairs measures it."""

from rapidfuzz.distance import Indel


def alike(first: str, second: str, least: float) -> bool:
    """Whether the texts are at least this similar (0 to 1), ignoring case and spacing.

    Similarity is the share of the characters of both texts that are in their longest common subsequence: 1
    for the same text, 0.9 for "abcdefghij" and "abcdefghiX".
    """
    a, b = normalised(first), normalised(second)
    both = len(a) + len(b)
    # Below this cutoff the library stops early; the line after it decides.
    cutoff = max(0, int(least * both) - 1)
    return not both or Indel.similarity(a, b, score_cutoff=cutoff) / both >= least


def normalised(text: str) -> str:
    """The text without case and spacing."""
    return " ".join(text.casefold().split())
