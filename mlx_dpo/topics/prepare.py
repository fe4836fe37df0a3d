"""Texts to bags of words: which words and documents are kept, counted and written to a folder."""

from array import array
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..console import plural, progress
from ..errors import DpoError, first_ten
from ..storage.files import check_writable, replace_folder
from ..storage.reading import entries, is_folder, is_there, path_text
from .corpus_config import CorpusConfig
from .documents import read_documents, source_bytes
from .libraries import check_libraries
from .words import load_stop_words, words_of

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

FILES = (
    "vocab.txt",
    "label_names.txt",
    *(f"{part}_{kind}" for part in ("train", "test") for kind in ("bow.npz", "texts.txt", "labels.txt")),
)
"""What a folder of a corpus may have."""
_LEAST_DOCUMENTS, _LEAST_WORDS = 2, 2
_SPACE = 1_000_000
"""Bytes that must be free besides twice the size of the texts: once for their words, once for the bags."""
_SLOW = 2**24
"""A source of more bytes gets a progress bar."""
_HELD_OUT = "hold out texts of the same kind"
_MANY = "a topic model needs many documents, each with several words"


@dataclass(frozen=True)
class Prepared:
    """What was kept of the texts.

    `documents`, `test_documents`: kept for training, and held out. `dropped`: documents with too few words.
    `vocabulary`, `found`: words kept, and different words in the training documents. `words`: words of the
    vocabulary in a training document, on average. `labels`: their names; the number of each is its place.
    """

    folder: str
    documents: int
    test_documents: int
    dropped: int
    vocabulary: int
    found: int
    words: float
    labels: list[str]

    def __str__(self) -> str:
        labels = f", {plural(len(self.labels), 'label')}" if self.labels else ""
        dropped = f"; {plural(self.dropped, 'document')} left out with too few words" if self.dropped else ""
        return (
            f"{self.folder}: {plural(self.documents, 'document')} to train on, "
            f"{self.test_documents:,} held out{labels}{dropped}\n"
            f"vocabulary: {self.vocabulary:,} of {plural(self.found, 'word')}; "
            f"{self.words:.1f} of them in a document on average"
        )


@dataclass(frozen=True)
class _Part:
    """Documents of the same side of the split: the numbers of each one's words, int32, and the labels."""

    words: list[array]
    labels: list[str | None]

    def where(self, keep: Sequence[bool]) -> "_Part":
        """The documents to keep."""
        return _Part(list(compress(self.words, keep)), list(compress(self.labels, keep)))

    def renumbered(self, new: np.ndarray) -> "_Part":
        """The words by other numbers; those with a number below 0 are left out."""
        words = []
        for document in self.words:
            numbers = new[document]
            words.append(array("i", numbers[numbers >= 0].tobytes()))
        return _Part(words, self.labels)

    def bags(self, words: int) -> "csr_matrix":
        """Counts, int32 (documents, words)."""
        from scipy.sparse import csr_matrix

        ends = np.cumsum([0, *map(len, self.words)])
        places = np.frombuffer(bytearray().join(self.words), np.int32)
        bags = csr_matrix((np.ones(len(places), np.int32), places, ends), shape=(len(self.words), words))
        bags.sum_duplicates()
        return bags


def prepare(config: CorpusConfig, *, overwrite: bool = False) -> Prepared:
    """Write the folder of a corpus: bags of words, texts, labels and vocabulary.

    The vocabulary comes from the training documents only: no word is chosen because of held-out texts.

    Raises:
        DpoError: there are no texts, too few are left, or the folder exists already or has other files.
    """
    check_libraries()
    folder = Path(config.folder)
    if config.source is None:
        hint = "set it to a text file, a folder of texts, or rows such as texts.jsonl"
        raise DpoError("there are no texts", where="corpus.source", hint=hint)
    if is_there(folder) and not overwrite:
        hint = "choose another folder with --output, or replace this one with --overwrite"
        raise DpoError("exists already", where=path_text(folder), hint=hint)
    _check_replaceable(folder)
    sources = [one for one in (config.source, config.test) if one is not None]
    check_writable(folder, need_bytes=_SPACE + 2 * sum(map(source_bytes, sources)))
    numbers: dict[str, int] = {}
    read = _split(config, numbers)
    long = [part.where([len(words) >= config.min_words for words in part.words]) for part in read]
    if len(long[0].words) < _LEAST_DOCUMENTS <= sum(map(bool, read[0].words)):
        what = f"leaves {plural(len(long[0].words), 'document')}"
        hint = "lower it: too few documents have so many words"
        raise DpoError(what, where="corpus.min_words", hint=hint)
    names, found = _vocabulary(long[0], list(numbers), config)
    new = np.full(len(numbers), -1, np.int32)
    new[[numbers[name] for name in names]] = np.arange(len(names))
    parts = [part.renumbered(new) for part in long]
    parts = [part.where([bool(words) for words in part.words]) for part in parts]
    if len(parts[0].words) < _LEAST_DOCUMENTS:
        raise _too_few(config, len(parts[0].words))
    if config.test is not None and not parts[1].words:
        what = "has no documents with words of the vocabulary"
        raise DpoError(what, where=_place(config.test, "corpus.test"), hint=_HELD_OUT)
    labels = sorted(
        {label for part in parts for label in part.labels if label is not None}, key=_number_first
    )

    def write(beside: Path) -> None:
        _write(beside, parts, names, labels)

    replace_folder(folder, write, over=overwrite)
    documents, held = (len(part.words) for part in parts)
    total = sum(len(words) for words in parts[0].words)
    dropped = sum(len(part.words) for part in read) - documents - held
    return Prepared(path_text(folder), documents, held, dropped, len(names), found, total / documents, labels)


def _check_replaceable(folder: Path) -> None:
    """Check that a folder to replace has no files that are not of a corpus."""
    held = entries(folder) if is_folder(folder) else []
    foreign = [path.name for path in held if path.name not in (*FILES, ".DS_Store")]
    if foreign:
        what = f"contains {first_ten(foreign)}, which is no part of a corpus"
        hint = "choose another folder with --output: a folder is replaced as a whole"
        raise DpoError(what, where=path_text(folder), hint=hint)


def _split(config: CorpusConfig, numbers: dict[str, int]) -> list[_Part]:
    """The documents to train on, and those held out: their own source, or a random share."""
    stop_words = load_stop_words(config.stop_words)
    found = _read(config.source, config, stop_words, numbers)
    count = len(found.words)
    if count < _LEAST_DOCUMENTS:
        raise _too_few(config, count)
    if config.test is not None:
        test = _read(config.test, config, stop_words, numbers)
        if not test.words:
            raise DpoError("has no documents", where=_place(config.test, "corpus.test"), hint=_HELD_OUT)
        return [found, test]
    held = np.zeros(count, bool)
    held_out = min(round(config.test_fraction * count), count - _LEAST_DOCUMENTS)
    held[np.random.default_rng(config.seed).permutation(count)[:held_out]] = True
    return [found.where(~held), found.where(held)]


def _read(
    source: str | list[str], config: CorpusConfig, stop_words: frozenset[str], numbers: dict[str, int]
) -> _Part:
    """The words of each document; `numbers` gets those that are new.

    Of a document only the numbers of its words are kept, 4 bytes each, so a text may be larger than memory.
    """
    part, done, size = _Part([], []), 0, source_bytes(source)
    bar = progress("reading texts", size // 2**20, "MB") if size > _SLOW else None
    with bar or nullcontext(lambda count: None) as advance:
        for document in read_documents(source, config.field, config.label):
            words = words_of(document.text, stop_words, config.min_length)
            part.words.append(array("i", [numbers.setdefault(word, len(numbers)) for word in words]))
            part.labels.append(document.label)
            if megabytes := (done + document.size) // 2**20 - done // 2**20:
                advance(megabytes)
            done += document.size
    return part


def _too_few(config: CorpusConfig, count: int) -> DpoError:
    what = f"has {plural(count, 'document')} with words" if count else "has no documents with words"
    return DpoError(what, where=_place(config.source, "corpus.source"), hint=_MANY)


def _place(source: str | list[str] | None, setting: str) -> str:
    return source if isinstance(source, str) else setting


def _vocabulary(documents: _Part, names: list[str], config: CorpusConfig) -> tuple[list[str], int]:
    """The words to keep, sorted, and how many different words there are.

    Kept are those in the most documents; of words in equally many, the first by the alphabet.
    """
    if not any(documents.words):
        raise _too_few(config, 0)
    inside = documents.bags(len(names)).getnnz(axis=0)
    found = np.flatnonzero(inside).tolist()
    if len(found) < _LEAST_WORDS:
        what = f"has {plural(len(found), 'different word')}"
        raise DpoError(what, where=_place(config.source, "corpus.source"), hint=_MANY)
    order = sorted(found, key=lambda number: (-inside[number], names[number]))[: config.vocabulary_size]
    kept = [names[number] for number in order if inside[number] >= config.min_documents]
    if len(kept) < _LEAST_WORDS:
        what = f"leaves {plural(len(kept), 'word')}"
        hint = "lower it: too few words are in so many documents"
        raise DpoError(what, where="corpus.min_documents", hint=hint)
    return sorted(kept), len(found)


def _write(folder: Path, parts: Sequence[_Part], names: list[str], labels: list[str]) -> None:
    from scipy.sparse import save_npz

    label_numbers = {label: str(number) for number, label in enumerate(labels)}
    _write_lines(folder / "vocab.txt", names)
    if labels:
        _write_lines(folder / "label_names.txt", labels)
    for name, part in zip(("train", "test"), parts, strict=True):
        if not part.words:
            continue
        save_npz(folder / f"{name}_bow.npz", part.bags(len(names)))
        texts = (" ".join([names[number] for number in words]) for words in part.words)
        _write_lines(folder / f"{name}_texts.txt", texts)
        if labels:
            _write_lines(folder / f"{name}_labels.txt", [label_numbers[one] for one in part.labels])


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)


def _number_first(label: str) -> tuple[bool, int, str, str]:
    """Sorts labels that are numbers by value, before other labels; not by `int`, which refuses long ones."""
    if not (label.isascii() and label.isdecimal()):
        return True, 0, "", label
    digits = label.lstrip("0")
    return False, len(digits), digits, label
