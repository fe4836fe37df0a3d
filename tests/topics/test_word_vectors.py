"""Word vectors from the corpus, from a file, from an embedder."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from mlx_dpo.errors import DpoError
from mlx_dpo.topics.word_vectors import embedded, ppmi_svd, read_glove

# Documents x words: 0 and 1 occur together, 2 and 3 do, 0 and 2 once.
BAGS = csr_matrix([[2, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 3], [0, 0, 1, 1], [1, 0, 1, 0]])


def test_products_of_all_vectors_are_the_ppmi_up_to_the_sign_of_the_singular_values():
    # Pairs, both ways: 01 2, 23 2, 02 1: 10 in all; sums of the rows 3, 2, 3, 2.
    ppmi = np.zeros((4, 4))
    ppmi[0, 1] = ppmi[1, 0] = ppmi[2, 3] = ppmi[3, 2] = np.log(2 * 10 / (3 * 2))
    ppmi[0, 2] = ppmi[2, 0] = np.log(1 * 10 / (3 * 3))
    values, vectors = np.linalg.eigh(ppmi)
    expected = (vectors * np.abs(values)) @ vectors.T
    found = ppmi_svd(BAGS, 4, seed=0)
    assert found.dtype == np.float32
    assert found @ found.T == pytest.approx(expected, abs=1e-5)


def test_words_of_the_same_documents_are_closer():
    found = ppmi_svd(csr_matrix(np.kron(np.eye(3), np.ones((4, 5)))), 3, seed=0)
    unit = found / np.linalg.norm(found, axis=1, keepdims=True)
    cosines = unit @ unit.T
    assert cosines[0, 1:5] == pytest.approx(1, abs=1e-4)
    assert abs(cosines[0, 5:]).max() < 1e-4


def test_the_seed_decides_and_missing_columns_are_zeros():
    assert (ppmi_svd(BAGS, 2, seed=1) == ppmi_svd(BAGS, 2, seed=1)).all()
    wide = ppmi_svd(BAGS, 6, seed=1)
    assert wide.shape == (4, 6)
    assert not wide[:, 4:].any()


def test_how_often_a_word_is_in_a_document_does_not_count():
    assert (ppmi_svd(BAGS, 3, seed=0) == ppmi_svd((BAGS > 0).astype(np.int32), 3, seed=0)).all()


@pytest.fixture
def glove(tmp_path):
    """Write a file of vectors; its path."""

    def write(text):
        path = tmp_path / "vectors.txt"
        path.write_text(text)
        return path

    return write


def test_vectors_of_a_file_are_those_of_the_words_and_zeros_for_the_others(glove, capsys):
    path = glove("cat 1 2.5 -3e-1\nthe 0 0 1\n. . 7 7 7\n")
    found = read_glove(path, ["bird", "cat"])
    assert (found == np.array([[0, 0, 0], [1, 2.5, -0.3]], np.float32)).all()
    assert "vectors of 1 of 2 words, 3 numbers each" in capsys.readouterr().err


def test_the_head_of_a_word2vec_file_is_left_out(glove):
    assert read_glove(glove("2 3\ncat 1 2 3\ndog 4 5 6\n"), ["dog"]).tolist() == [[4, 5, 6]]


def test_tabs_blank_lines_and_a_mark_of_byte_order_are_read_over(glove):
    found = read_glove(glove("\ufeffcat\t1\t2\n\ndog\t3\t4\n\n"), ["cat", "dog"])
    assert found.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("cat 1 2\ndog 1\n", ":2", "has 1 number, the first line has 2"),
        ("cat 1 two\n", ":1", "is not a vector: '1 two'"),
        ("cat 1 nan\n", ":1", "is not a vector"),
        ("owl 1 2\n", "", "has none of the 2 words"),
        ("", "", "has none of the 2 words"),
    ],
)
def test_a_wrong_line_is_told(glove, text, place, what):
    with pytest.raises(DpoError, match=what) as error:
        read_glove(glove(text), ["cat", "dog"])
    assert error.value.where.endswith(f"vectors.txt{place}")


def test_an_embedder_gives_words_of_one_meaning_close_vectors(minilm):
    car, automobile, banana = embedded(minilm, ["car", "automobile", "banana"])
    assert car @ automobile > 0.7 > car @ banana
