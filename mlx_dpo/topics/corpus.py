"""A corpus as bags of words: the folder that topics prepare writes, or one in the same form."""

import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np

from ..console import UNPRINTABLE, plural
from ..errors import DpoError, quoted
from ..storage.reading import is_folder, is_there, opened, path_text, read_text
from .libraries import check_libraries

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

_PREPARE = "mlx-dpo topics prepare makes such a folder"
_LARGEST_COUNT = 2**31 - 1
_DAMAGED = (ValueError, KeyError, EOFError, TypeError, AttributeError, RuntimeError, BadZipFile, zlib.error)
"""What SciPy and zipfile raise for a file that is damaged, or no sparse matrix."""
_LEAST = {"train": 2, "test": 1}
"""Fewest documents of each part."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """Documents as counts of words.

    `bags`: CSR, int32 (documents, V). `vocabulary`: V words. `texts`: each document's words in order, with
    blanks between them. `labels`: int64 (documents,). `test`: the held-out documents, in the same vocabulary.
    `folder`: for messages.
    """

    bags: "csr_matrix"
    vocabulary: list[str]
    texts: list[str] | None = None
    labels: np.ndarray | None = None
    test: "Corpus | None" = None
    folder: str = ""

    @cached_property
    def number(self) -> dict[str, int]:
        """The index of each word."""
        return {word: index for index, word in enumerate(self.vocabulary)}


def read_corpus(folder: Path | str) -> Corpus:
    """The corpus in a folder: train_bow.npz and vocab.txt, and where they exist texts, labels and test_*.

    Raises:
        DpoError: a file is missing or damaged, or two files do not fit together.
    """
    check_libraries()
    folder = Path(folder)
    if not is_folder(folder):
        raise DpoError("is not a folder with a corpus", where=path_text(folder), hint=_PREPARE)
    vocabulary = _vocabulary(folder / "vocab.txt")
    test = _part(folder, "test", vocabulary) if is_there(folder / "test_bow.npz") else None
    corpus = _part(folder, "train", vocabulary, test)
    _check_labels(corpus, folder)
    return corpus


def _part(folder: Path, part: str, vocabulary: list[str], test: Corpus | None = None) -> Corpus:
    path = folder / f"{part}_bow.npz"
    bags = _bags(path, len(vocabulary), least=_LEAST[part])
    texts, labels = folder / f"{part}_texts.txt", folder / f"{part}_labels.txt"
    return Corpus(
        bags,
        vocabulary,
        _lines_of(texts, path, bags.shape[0]) if is_there(texts) else None,
        _labels(labels, path, bags.shape[0]) if is_there(labels) else None,
        test,
        path_text(folder),
    )


def _vocabulary(path: Path) -> list[str]:
    words = _lines(path)
    first: dict[str, int] = {}
    for number, word in enumerate(words, 1):
        where = f"{path_text(path)}:{number}"
        if word.split() != [word] or UNPRINTABLE.search(word):
            raise DpoError(
                f"is not one word: {quoted(word)}", where=where, hint="write one word on each line"
            )
        if word in first:
            what = f"the word {quoted(word)} is also on line {first[word]}"
            raise DpoError(what, where=where, hint="each line of the vocabulary needs a word of its own")
        first[word] = number
    if not words:
        raise DpoError("is empty", where=path_text(path), hint=_PREPARE)
    return words


def _bags(path: Path, words: int, least: int) -> "csr_matrix":
    import scipy.sparse

    try:
        with opened(path, _PREPARE) as file:
            found = scipy.sparse.load_npz(file)
            if hasattr(found, "check_format"):  # a place outside of the matrix would overwrite other memory
                found.check_format(full_check=True)
            bags = scipy.sparse.csr_matrix(found)
    except _DAMAGED as error:
        what = "is not a sparse matrix of SciPy"
        hint = f"write it with scipy.sparse.save_npz; {_PREPARE}"
        raise DpoError(what, where=path_text(path), hint=hint) from error
    documents, columns = bags.shape
    if columns != words:
        what = f"has {columns:,} columns, but vocab.txt has {words:,} words"
        raise DpoError(what, where=path_text(path), hint="both files must come from the same corpus")
    _check_counts(bags.data, path)
    bags = bags.astype(np.int64)  # small whole numbers would overflow in the sum of two entries in one place
    bags.sum_duplicates()
    _check_counts(bags.data, path)
    bags = bags.astype(np.int32)
    bags.eliminate_zeros()
    if documents < least or not bags.nnz:
        what = f"has {plural(documents, 'document')}" if documents < least else "has no words"
        raise DpoError(what, where=path_text(path), hint="a topic model needs many documents with words")
    return bags


def _check_counts(counts: np.ndarray, path: Path) -> None:
    whole = counts.dtype.kind in "iub" or (counts.dtype.kind == "f" and bool((counts % 1 == 0).all()))
    if not whole or (counts.size and (counts.min() < 0 or counts.max() > _LARGEST_COUNT)):
        what = "has an entry that is not a count (0, 1, 2, ...)"
        raise DpoError(what, where=path_text(path), hint="a bag says how often each word is in the document")


def _lines(path: Path) -> list[str]:
    """The lines of a text file; str.splitlines would also split at characters inside of texts."""
    text = read_text(path, _PREPARE).removeprefix("\ufeff").replace("\r\n", "\n")
    return text.removesuffix("\n").split("\n") if text else []


def _lines_of(path: Path, bags: Path, documents: int) -> list[str]:
    lines = _lines(path)
    if len(lines) != documents:
        what = f"has {plural(len(lines), 'line')}, but {bags.name} has {plural(documents, 'document')}"
        raise DpoError(what, where=path_text(path), hint="write one line for each document")
    return lines


def _labels(path: Path, bags: Path, documents: int) -> np.ndarray:
    labels = np.zeros(documents, np.int64)
    for number, line in enumerate(_lines_of(path, bags, documents), 1):
        try:
            labels[number - 1] = int(line)
        except (ValueError, OverflowError):
            where = f"{path_text(path)}:{number}"
            hint = "write each label as a whole number of at most 18 digits"
            raise DpoError(f"is not a label: {quoted(line)}", where=where, hint=hint) from None
    return labels


def _check_labels(corpus: Corpus, folder: Path) -> None:
    """Labels of held-out documents are only useful with bags of held-out documents."""
    for name in ("test_texts.txt", "test_labels.txt"):
        if corpus.test is None and is_there(folder / name):
            hint = "remove the file, or add the bags of the held-out documents"
            raise DpoError(f"there is {name}, but no test_bow.npz", where=path_text(folder), hint=hint)
