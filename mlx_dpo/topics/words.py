"""The words of a text."""

import re
from collections.abc import Collection

from ..errors import DpoError, quoted
from ..storage.reading import is_there, path_text, read_text
from .corpus_config import STOP_WORDS

_NO_WORDS = re.compile(r"\S+@\S+|(?<!\S)@\S+")
"""E-mail addresses and @mentions."""
_APOSTROPHE = re.compile(r"(?<=\w)['\u2019](?=\w)")
_BREAK = re.compile(r"[^\w]|_")


def words_of(text: str, stop_words: Collection[str], min_length: int) -> list[str]:
    """The words of a text in order, in lower case.

    Left out are e-mail addresses, @mentions, punctuation, whatever has a digit, stop words, and words with
    fewer than `min_length` letters. An apostrophe or a full stop inside a word joins its parts.

    "The U.S. don't e-mail me@home.org 3 times" -> ["dont", "mail", "times"], with stop words {"the"}
    """
    text = _NO_WORDS.sub(" ", text.lower())
    text = _APOSTROPHE.sub("", text).replace(".", "")
    parts = _BREAK.sub(" ", text).split()
    return [word for word in parts if len(word) >= min_length and word.isalpha() and word not in stop_words]


def load_stop_words(name: str) -> frozenset[str]:
    """The words to leave out: scikit-learn's English ones, none, or those of a file with one word a line.

    Raises:
        DpoError: there is no such list or file, or a line of the file has more than one word.
    """
    if name == "none":
        return frozenset()
    if name == "english":
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

        return frozenset(ENGLISH_STOP_WORDS)
    if not is_there(name):
        hint = f"the lists are {', '.join(STOP_WORDS)}; or give a text file with one word a line"
        raise DpoError(f"there is no list or file {quoted(name)}", where="corpus.stop_words", hint=hint)
    found = set()
    for number, line in enumerate(read_text(name).split("\n"), 1):
        if len(line.split()) > 1:
            where = f"{path_text(name)}:{number}"
            raise DpoError(f"is not one word: {quoted(line)}", where=where, hint="write one word a line")
        found.add(line.strip().lower())
    return frozenset(_APOSTROPHE.sub("", word) for word in found if word)
