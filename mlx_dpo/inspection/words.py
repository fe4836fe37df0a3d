"""Split a text into words."""

import re

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_]+|[^\w\s]")
"""A run of letters and digits, one sign, or one character of a script without spaces between words."""

RUN = 4
"""Length of the runs of words in which repetition is counted: distinct-4."""


def words(text: str) -> list[str]:
    """Words and signs in lower case: "So, so!" -> ["so", ",", "so", "!"]."""
    return _WORD.findall(text.casefold())
