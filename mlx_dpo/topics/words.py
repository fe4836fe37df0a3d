"""The words of a text."""

import re
import unicodedata
from collections.abc import Collection, Iterator
from functools import cache

from ..errors import DpoError, quoted
from ..storage.reading import is_there, path_text, read_text
from .corpus_config import STOP_WORDS

_ADDRESS = re.compile(
    r"(?<!\S)\S*@\S+|(?i:(?:https?|ftp)://|www\.)\S+|"
    r"(?<![\w.-])[\w-]+(?:\.[\w-]+)*\.(?:com|org|net|edu|gov)\b(?:/\S*)?"
)
"""E-mail addresses, @mentions, and addresses of web pages."""
_INITIALS = re.compile(r"(?<!\w)[^\W\d_](?:\.[^\W\d_])+(?!\w)")
_APOSTROPHE = re.compile("['\u2019\u02bc]")
_UNSEEN = re.compile("[\u00ad\u200c-\u200f\u2060\ufeff]")
"""Characters without width that may be inside of a word, such as a soft hyphen."""
_WITH_MARKS = range(0x300, 0x20000)
_ENDINGS = {"s", "m", "d", "re", "ve", "ll"}
"""After a stop word and an apostrophe: that's, I'm, you'd, they're, we've, he'll."""
_CONTRACTIONS = (
    "aint arent couldnt didnt doesnt dont hadnt hasnt havent isnt mightnt mustnt neednt shant shouldnt wasnt "
    "werent wont wouldnt im ive youre youve youll youd hes shes itll weve theyre theyve theyll theyd thats "
    "thatll theres heres whos whats wheres whens whys hows lets"
)
"""English contractions without their apostrophe; not hell, shell, ill, id, shed or wed, which are words."""


@cache
def _word() -> re.Pattern[str]:
    """Letters, digits and marks (vowels of many alphabets), with apostrophes between them."""
    marks = "".join(one for one in map(chr, _WITH_MARKS) if unicodedata.category(one)[0] == "M")
    part = rf"[^\W_]+(?:[{marks}]+[^\W_]*)*"
    return re.compile(rf"{part}(?:'{part})*")


def words_of(text: str, stop_words: Collection[str], min_length: int) -> list[str]:
    """The words of a text in order, in lower case and in Unicode's composed form (NFC).

    Left out are e-mail and web addresses, @mentions, punctuation, whatever has a digit, stop words, their
    contractions, and words with fewer than `min_length` characters. An apostrophe inside a word joins its
    parts, and full stops join single letters.

    "The U.S.A. don't e-mail me@home.org 3 times" -> ["usa", "mail", "times"], with stop words {"the", "dont"}
    """
    text = _ADDRESS.sub(" ", text).lower()
    text = _UNSEEN.sub("", unicodedata.normalize("NFC", _APOSTROPHE.sub("'", text)))
    text = _INITIALS.sub(lambda found: found[0].replace(".", ""), text)
    return [word for word in _joined(text, stop_words) if len(word) >= min_length]


def _joined(text: str, stop_words: Collection[str]) -> Iterator[str]:
    """The words without digits that are no stop words, without their apostrophes."""
    for found in _word().findall(text):
        head, _, tail = found.partition("'")
        word = found.replace("'", "")
        contracted = tail in _ENDINGS and head in stop_words
        digits = not word.isalpha() and any(map(str.isnumeric, word))
        if not (contracted or digits or word in stop_words):
            yield word


def load_stop_words(name: str) -> frozenset[str]:
    """The words to leave out: English ones (scikit-learn's and contractions), none, or a file's, one a line.

    Raises:
        DpoError: there is no such list or file, or a line of the file has more than one word.
    """
    if name == "none":
        return frozenset()
    if name == "english":
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

        return frozenset((*ENGLISH_STOP_WORDS, *_CONTRACTIONS.split()))
    if not is_there(name):
        hint = f"the lists are {', '.join(STOP_WORDS)}; or give a text file with one word a line"
        raise DpoError(f"there is no list or file {quoted(name)}", where="corpus.stop_words", hint=hint)
    found = set()
    for number, line in enumerate(read_text(name).split("\n"), 1):
        if len(line.split()) > 1:
            where = f"{path_text(name)}:{number}"
            raise DpoError(f"is not one word: {quoted(line)}", where=where, hint="write one word a line")
        found.update(words_of(line, (), 1))
    return frozenset(found)
