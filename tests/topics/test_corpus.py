"""The folder of a corpus is read as it is, and what does not fit together is told."""

import numpy as np
import pytest
import scipy.sparse

from mlx_dpo.errors import DpoError
from mlx_dpo.topics.corpus import read_corpus

BAGS = [[1, 0, 2], [0, 3, 1]]


@pytest.fixture
def folder(tmp_path):
    """Two documents to train on, one held out."""
    scipy.sparse.save_npz(tmp_path / "train_bow.npz", scipy.sparse.csr_matrix(np.array(BAGS, np.int64)))
    scipy.sparse.save_npz(tmp_path / "test_bow.npz", scipy.sparse.csr_matrix(np.array([[0, 1, 0]] * 2)))
    (tmp_path / "vocab.txt").write_text("cat\ndog\nowl\n")
    return tmp_path


def test_bags_and_a_vocabulary_suffice(folder):
    corpus = read_corpus(folder)
    assert corpus.bags.toarray().tolist() == BAGS
    assert corpus.bags.dtype == np.int32
    assert corpus.number == {"cat": 0, "dog": 1, "owl": 2}
    assert corpus.test.bags.shape == (2, 3)
    assert (corpus.texts, corpus.labels, corpus.test.labels) == (None, None, None)


def test_texts_and_labels_are_read_where_they_are(folder):
    (folder / "train_texts.txt").write_text("cat owl owl\r\ndog dog owl dog\r\n")
    (folder / "test_labels.txt").write_text("4\n-1")
    corpus = read_corpus(folder)
    assert corpus.texts == ["cat owl owl", "dog dog owl dog"]
    assert corpus.test.labels.tolist() == [4, -1]


@pytest.mark.parametrize(
    "form", [scipy.sparse.csc_matrix, scipy.sparse.coo_array, scipy.sparse.bsr_array, scipy.sparse.dia_array]
)
def test_other_sparse_matrices_are_read_too(folder, form):
    scipy.sparse.save_npz(folder / "train_bow.npz", form(np.array(BAGS, np.float64)))
    assert read_corpus(folder).bags.toarray().tolist() == BAGS


def test_two_entries_in_one_place_are_added_although_their_type_is_small(folder):
    counts, places, ends = np.full(4, 100, np.int8), np.array([0, 0, 0, 1]), np.array([0, 3, 4])
    np.savez(folder / "train_bow.npz", format=b"csr", shape=(2, 3), data=counts, indices=places, indptr=ends)
    assert read_corpus(folder).bags.toarray().tolist() == [[300, 0, 0], [0, 100, 0]]


def test_a_mark_of_byte_order_is_no_part_of_a_word(folder):
    (folder / "vocab.txt").write_text("\ufeffcat\ndog\nowl\n")
    assert read_corpus(folder).vocabulary == ["cat", "dog", "owl"]


@pytest.mark.parametrize(
    ("name", "content", "place", "what"),
    [
        ("vocab.txt", "cat\nd\0g\nowl\n", "vocab.txt:2", r"is not one word: 'd\\x00g'"),
        ("vocab.txt", "", "vocab.txt", "is empty"),
        ("vocab.txt", "cat\ndog owl\n", "vocab.txt:2", "is not one word: 'dog owl'"),
        ("vocab.txt", "cat\ndog\ncat\n", "vocab.txt:3", "'cat' is also on line 1"),
        ("vocab.txt", "cat\ndog\n", "test_bow.npz", "has 3 columns, but vocab.txt has 2 words"),
        ("train_bow.npz", "PK", "train_bow.npz", "is not a sparse matrix of SciPy"),
        ("train_texts.txt", "cat\n", "train_texts.txt", "has 1 line, but train_bow.npz has 2 documents"),
        ("train_labels.txt", "1\nsport\n", "train_labels.txt:2", "is not a label: 'sport'"),
    ],
)
def test_a_file_that_does_not_fit_is_told(folder, name, content, place, what):
    (folder / name).write_text(content)
    with pytest.raises(DpoError, match=what) as error:
        read_corpus(folder)
    assert error.value.where.endswith(place)
    assert error.value.hint


@pytest.mark.parametrize(
    ("bags", "what"),
    [
        ([[0.5, 0, 1], [1, 1, 1]], "an entry that is not a count"),
        ([[-1, 0, 1], [1, 1, 1]], "an entry that is not a count"),
        ([[np.nan, 0, 1], [1, 1, 1]], "an entry that is not a count"),
        ([[0, 0, 0], [0, 0, 0]], "has no words"),
        ([[1, 0, 1]], "has 1 document"),
    ],
)
def test_counts_that_are_none_are_refused(folder, bags, what):
    scipy.sparse.save_npz(folder / "train_bow.npz", scipy.sparse.csr_matrix(np.array(bags)))
    with pytest.raises(DpoError, match=what) as error:
        read_corpus(folder)
    assert error.value.where.endswith("train_bow.npz")


def test_what_is_missing_is_told(folder, tmp_path):
    with pytest.raises(DpoError, match="is not a folder with a corpus"):
        read_corpus(tmp_path / "elsewhere")
    (folder / "test_bow.npz").unlink()
    (folder / "test_labels.txt").write_text("1\n2\n")
    with pytest.raises(DpoError, match=r"there is test_labels\.txt, but no test_bow\.npz"):
        read_corpus(folder)
    (folder / "train_bow.npz").unlink()
    with pytest.raises(DpoError, match="no such file"):
        read_corpus(folder)
