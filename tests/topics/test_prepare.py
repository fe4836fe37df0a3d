"""Texts of a user become the folder of a corpus."""

import gzip
import json

import numpy as np
import pytest

from mlx_dpo.errors import DpoError
from mlx_dpo.topics.corpus import read_corpus
from mlx_dpo.topics.corpus_config import CorpusConfig
from mlx_dpo.topics.prepare import prepare

TEXTS = ["Cats chase mice.", "Cats and dogs: the cats sleep", "Dogs chase cats", "Mice eat cheese", "Eat 42!"]


@pytest.fixture
def prepared(tmp_path):
    """Prepare texts with settings; the summary and the corpus."""

    def run(source, **settings):
        config = CorpusConfig(source=str(source), folder=str(tmp_path / "corpus"), **settings)
        return prepare(config, overwrite=True), read_corpus(tmp_path / "corpus")

    return run


@pytest.fixture
def lines_file(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join([*TEXTS, "", "  "]))
    return path


def rows_of(corpus):
    """Each document as {word: count}."""
    bags = corpus.bags.toarray()
    return [{corpus.vocabulary[v]: int(row[v]) for v in np.flatnonzero(row)} for row in bags]


def test_counts_texts_and_vocabulary_fit_together(prepared, lines_file):
    summary, corpus = prepared(lines_file, test_fraction=0)
    assert corpus.vocabulary == ["cats", "chase", "cheese", "dogs", "eat", "mice", "sleep"]
    assert corpus.texts == [
        "cats chase mice",
        "cats dogs cats sleep",
        "dogs chase cats",
        "mice eat cheese",
        "eat",
    ]
    assert rows_of(corpus)[1] == {"cats": 2, "dogs": 1, "sleep": 1}
    assert corpus.bags.dtype == np.int32
    assert (corpus.test, corpus.labels) == (None, None)
    assert (summary.documents, summary.vocabulary, summary.found, summary.dropped) == (5, 7, 7, 0)


def test_the_vocabulary_has_the_words_of_most_documents_and_the_first_by_alphabet_of_equal_ones(
    prepared, lines_file
):
    # cats 3 documents; chase, dogs, eat, mice 2; cheese, sleep 1
    summary, corpus = prepared(lines_file, test_fraction=0, vocabulary_size=3)
    assert corpus.vocabulary == ["cats", "chase", "dogs"]
    assert corpus.texts == ["cats chase", "cats dogs cats", "dogs chase cats"]
    assert summary.dropped == 2
    assert "2 documents left out with too few words" in str(summary)
    _, corpus = prepared(lines_file, test_fraction=0, min_documents=2)
    assert corpus.vocabulary == ["cats", "chase", "dogs", "eat", "mice"]


def test_a_repeated_word_counts_once_a_document_for_the_vocabulary(prepared, tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("owl owl owl owl hawk\nhawk fox\nfox hawk\n")
    _, corpus = prepared(path, test_fraction=0, vocabulary_size=2)
    assert corpus.vocabulary == ["fox", "hawk"]


def test_held_out_documents_are_a_random_share_that_the_seed_decides(prepared, tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("".join(f"cats dogs word{'abcdefghij'[n]}\n" for n in range(10)))
    _, first = prepared(path, seed=1)
    _, again = prepared(path, seed=1)
    _, other = prepared(path, seed=2)
    assert (first.bags.shape[0], first.test.bags.shape[0]) == (8, 2)
    assert first.texts == again.texts
    assert first.texts != other.texts


def test_the_vocabulary_does_not_see_held_out_texts(prepared, lines_file, tmp_path):
    (tmp_path / "test.txt").write_text("cats zebra zebra\nzebra\n")
    summary, corpus = prepared(lines_file, test=str(tmp_path / "test.txt"))
    assert "zebra" not in corpus.vocabulary
    assert corpus.test.texts == ["cats"]
    assert summary.test_documents == 1


@pytest.mark.parametrize("kind", ["jsonl", "csv", "json", "jsonl.gz"])
def test_rows_give_a_field_and_a_label(prepared, tmp_path, kind):
    rows = [{"body": text, "kind": kind} for text, kind in zip(TEXTS, "babba", strict=True)]
    path = tmp_path / f"texts.{kind}"
    if kind == "json":
        path.write_text(json.dumps(rows))
    elif kind == "csv":
        path.write_text("kind,body\n" + "".join(f'{row["kind"]},"{row["body"]}"\n' for row in rows))
    else:
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(text) if kind.endswith("gz") else text)
    summary, corpus = prepared(path, field="body", label="kind", test_fraction=0)
    assert corpus.texts[0] == "cats chase mice"
    assert corpus.labels.tolist() == [1, 0, 1, 1, 0]
    assert (tmp_path / "corpus" / "label_names.txt").read_text() == "a\nb\n"
    assert summary.labels == ["a", "b"]


def test_a_table_of_one_column_is_read(prepared, tmp_path):
    (tmp_path / "texts.csv").write_text('text\nCats chase mice\n"Dogs, cats"\n')
    _, corpus = prepared(tmp_path / "texts.csv", test_fraction=0)
    assert corpus.texts == ["cats chase mice", "dogs cats"]


def test_files_in_folders_are_documents_and_the_folders_their_labels(prepared, tmp_path):
    for place, text in (("b/1", TEXTS[0]), ("a/2", TEXTS[1]), ("a/1", TEXTS[2])):
        path = tmp_path / "texts" / f"{place}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace(" ", "\n"))
    _, corpus = prepared(tmp_path / "texts", label="folder", test_fraction=0)
    assert corpus.texts == ["dogs chase cats", "cats dogs cats sleep", "cats chase mice"]
    assert corpus.labels.tolist() == [0, 0, 1]


def test_numeric_labels_keep_their_order(prepared, tmp_path):
    rows = [{"text": TEXTS[n], "label": label} for n, label in enumerate([10, 9, 2])]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary, corpus = prepared(tmp_path / "t.jsonl", label="label", test_fraction=0)
    assert summary.labels == ["2", "9", "10"]
    assert corpus.labels.tolist() == [2, 1, 0]


def test_a_missing_source_and_a_folder_that_exists_are_told(tmp_path, lines_file):
    with pytest.raises(DpoError, match="there are no texts"):
        prepare(CorpusConfig(folder=str(tmp_path / "new")))
    with pytest.raises(DpoError, match="no such file"):
        prepare(CorpusConfig(source=str(tmp_path / "none.txt"), folder=str(tmp_path / "new")))
    with pytest.raises(DpoError, match="exists already"):
        prepare(CorpusConfig(source=str(lines_file), folder=str(tmp_path)))
