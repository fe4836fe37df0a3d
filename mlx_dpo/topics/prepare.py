"""Texts to bags of words: which words and documents are kept, counted and written to a folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..console import plural
from ..errors import DpoError, first_ten
from ..storage.files import check_writable, replace_folder
from ..storage.reading import entries, is_folder, is_there, path_text
from .corpus_config import CorpusConfig
from .documents import Document, read_documents
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
    """Documents of the same side of the split, as words."""

    words: list[list[str]]
    labels: list[str | None]

    def where(self, keep: Sequence[bool]) -> "_Part":
        """The documents to keep."""
        pairs = [
            pair for pair, kept in zip(zip(self.words, self.labels, strict=True), keep, strict=True) if kept
        ]
        return _Part([words for words, _ in pairs], [label for _, label in pairs])


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
    check_writable(folder, need_bytes=10_000_000)
    stop_words = load_stop_words(config.stop_words)
    train, test = _split(config)
    read = [_part(documents, stop_words, config) for documents in (train, test)]
    long = [part.where([len(words) >= config.min_words for words in part.words]) for part in read]
    if len(long[0].words) < _LEAST_DOCUMENTS <= sum(map(bool, read[0].words)):
        what = f"leaves {plural(len(long[0].words), 'document')}"
        hint = "lower it: too few documents have so many words"
        raise DpoError(what, where="corpus.min_words", hint=hint)
    counts, names = _counted(long[0].words, config)
    kept = set(names)
    parts = [_Part([[w for w in words if w in kept] for words in part.words], part.labels) for part in long]
    parts = [part.where([bool(words) for words in part.words]) for part in parts]
    if len(parts[0].words) < _LEAST_DOCUMENTS:
        raise _too_few(config, len(parts[0].words))
    if config.test is not None and not parts[1].words:
        what, hint = "has no documents with words of the vocabulary", "hold out texts of the same kind"
        raise DpoError(what, where=_place(config.test, "corpus.test"), hint=hint)
    labels = sorted(
        {label for part in parts for label in part.labels if label is not None}, key=_number_first
    )

    def write(beside: Path) -> None:
        _write(beside, parts, names, labels)

    replace_folder(folder, write, over=overwrite)
    documents, held = (len(part.words) for part in parts)
    total = sum(len(words) for words in parts[0].words)
    dropped = len(train) + len(test) - documents - held
    return Prepared(
        path_text(folder), documents, held, dropped, len(names), counts.shape[1], total / documents, labels
    )


def _check_replaceable(folder: Path) -> None:
    """Check that a folder to replace has no files that are not of a corpus."""
    held = entries(folder) if is_folder(folder) else []
    foreign = [path.name for path in held if path.name not in (*FILES, ".DS_Store")]
    if foreign:
        what = f"contains {first_ten(foreign)}, which is no part of a corpus"
        hint = "choose another folder with --output: a folder is replaced as a whole"
        raise DpoError(what, where=path_text(folder), hint=hint)


def _split(config: CorpusConfig) -> tuple[list[Document], list[Document]]:
    """The documents to train on, and those held out: their own source, or a random share."""
    found = read_documents(config.source, config.field, config.label)
    if len(found) < _LEAST_DOCUMENTS:
        raise _too_few(config, len(found))
    if config.test is not None:
        return found, read_documents(config.test, config.field, config.label)
    held = np.zeros(len(found), bool)
    count = min(round(config.test_fraction * len(found)), len(found) - _LEAST_DOCUMENTS)
    held[np.random.default_rng(config.seed).permutation(len(found))[:count]] = True
    pairs = list(zip(found, held, strict=True))
    return [one for one, out in pairs if not out], [one for one, out in pairs if out]


def _too_few(config: CorpusConfig, count: int) -> DpoError:
    what = f"has {plural(count, 'document')} with words" if count else "has no documents with words"
    return DpoError(what, where=_place(config.source, "corpus.source"), hint=_MANY)


def _place(source: str | list[str] | None, setting: str) -> str:
    return source if isinstance(source, str) else setting


def _part(documents: list[Document], stop_words: frozenset[str], config: CorpusConfig) -> _Part:
    words = [words_of(one.text, stop_words, config.min_length) for one in documents]
    return _Part(words, [one.label for one in documents])


def _counted(documents: list[list[str]], config: CorpusConfig) -> tuple["csr_matrix", list[str]]:
    """Counts of all words (documents, words), and the words to keep, sorted.

    Kept are those in the most documents; of words in equally many, the first by the alphabet.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    if not any(documents):
        raise _too_few(config, 0)
    vectorizer = CountVectorizer(analyzer=lambda words: words)
    counts = vectorizer.fit_transform(documents)
    names = vectorizer.get_feature_names_out()
    inside = np.asarray((counts > 0).sum(axis=0)).ravel()
    order = np.argsort(-inside, kind="stable")
    order = order[inside[order] >= config.min_documents][: config.vocabulary_size]
    if len(names) < _LEAST_WORDS:
        what = f"has {plural(len(names), 'different word')}"
        raise DpoError(what, where=_place(config.source, "corpus.source"), hint=_MANY)
    if len(order) < _LEAST_WORDS:
        what = f"leaves {plural(len(order), 'word')}"
        hint = "lower it: too few words are in so many documents"
        raise DpoError(what, where="corpus.min_documents", hint=hint)
    return counts, [str(names[index]) for index in sorted(order)]


def _write(folder: Path, parts: Sequence[_Part], names: list[str], labels: list[str]) -> None:
    import scipy.sparse
    from sklearn.feature_extraction.text import CountVectorizer

    vectorizer = CountVectorizer(analyzer=lambda words: words, vocabulary=names)
    _write_lines(folder / "vocab.txt", names)
    if labels:
        _write_lines(folder / "label_names.txt", labels)
    for name, part in zip(("train", "test"), parts, strict=True):
        if not part.words:
            continue
        bags = scipy.sparse.csr_matrix(vectorizer.transform(part.words), dtype=np.int32)
        scipy.sparse.save_npz(folder / f"{name}_bow.npz", bags)
        _write_lines(folder / f"{name}_texts.txt", [" ".join(words) for words in part.words])
        if labels:
            _write_lines(folder / f"{name}_labels.txt", [str(labels.index(one)) for one in part.labels])


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _number_first(label: str) -> tuple[bool, Any]:
    """Sorts labels that are numbers by value, before other labels."""
    return (False, int(label)) if label.isdecimal() else (True, label)
