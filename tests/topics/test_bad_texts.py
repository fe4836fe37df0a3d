"""Texts and bags that make no corpus, told word for word; kinds of files that do."""

import bz2
import gzip
import io
import json
import zipfile

import numpy as np
import pytest
import scipy.sparse

from mlx_dpo.errors import DpoError
from mlx_dpo.topics.corpus import read_corpus
from mlx_dpo.topics.corpus_config import CorpusConfig
from mlx_dpo.topics.documents import read_documents, source_bytes
from mlx_dpo.topics.prepare import prepare

from ..support.mistakes import cases, flip, lines, write

TWO = "Cats chase mice\nDogs chase cats\n"
NUL = "save the texts as UTF-8; a NUL often comes from UTF-16"
LABEL = "write each label on one line: label_names.txt has a label on each line"

TEXTS = {
    "a NUL": ({"t.txt": "cats chase\nmi\0ce\n"}, "", "t.txt:2: contains a NUL character", NUL),
    "UTF-16 without its mark": (
        {"t.txt": TWO.encode("utf-16-le")},
        "",
        "t.txt:1: contains a NUL character",
        NUL,
    ),
    "line ends of old Macs": (
        {"t.txt": "cats chase\rdogs chase\r"},
        "",
        "t.txt: has the line ends of old Macs (CR)",
        "turn them into line feeds: tr '\\r' '\\n' < t.txt > new.txt",
    ),
    "a label of two lines": (
        {"t.jsonl": lines({"text": "cats", "kind": "pets"}, {"text": "dogs", "kind": "pets\nbig"})},
        "--source t.jsonl --label kind",
        "t.jsonl:2: the label 'pets\\nbig' has a line break",
        LABEL,
    ),
    "a row longer than rows are": (
        {"t.jsonl": lines({"text": "cats " * 2**19})},
        "--source t.jsonl",
        "t.jsonl:1: the row is longer than 2 MB",
        "remove it, or shorten its text",
    ),
    "a pattern": (
        {},
        "--source *.jsonl",
        "*.jsonl: is a pattern for several files, not the path of one file",
        "give a folder, or a list of files: [a.jsonl, b.jsonl]",
    ),
    "held-out texts that are empty": (
        {"t.txt": TWO, "held.txt": "\n"},
        "--test held.txt",
        "held.txt: has no documents",
        "hold out texts of the same kind",
    ),
    "a table of one column with a cell too many": (
        {"t.tsv": "text\ncats\tdogs\n"},
        "--source t.tsv",
        "t.tsv:2: has 2 cells, but the first line names 1 columns",
        "a cell with a separator, a quote or a line break stands between quotes, and a quote in it is "
        "doubled",
    ),
}


@cases(TEXTS)
def test_texts_that_make_no_corpus_are_told(case, tmp_path, mistake):
    files, words, told, remedy = case
    for name, content in files.items():
        write(tmp_path / name, content)
    before = set(tmp_path.rglob("*"))
    source = [] if "--source" in words else ["--source", "t.txt"]
    assert str(mistake("topics", "prepare", "--output", "new", *source, *words.split())) == (
        f"{told}\n  {remedy}"
    )
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "pack"),
    [("t.tsv", bytes), ("t.csv", bytes), ("t.csv.gz", gzip.compress), ("T.TSV.BZ2", bz2.compress)],
)
def test_a_table_of_one_column_is_read_by_its_name(tmp_path, name, pack):
    write(tmp_path / name, pack(b"text\nCats chase mice\nDogs sleep\n"))
    found = list(read_documents(str(tmp_path / name), "text", None))
    assert [one.text for one in found] == ["Cats chase mice", "Dogs sleep"]
    assert found[1].where.endswith(f"{name}:3")


def test_rows_beside_texts_are_named_and_not_read(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for name in ("a.txt", "r.jsonl", "in/b.txt", "in/c.csv"):
        write(tmp_path / name, '{"text": "cats"}\n')
    found = list(read_documents(str(tmp_path), "text", None))
    assert [one.where.rpartition("/")[2] for one in found] == ["a.txt", "b.txt"]
    assert f"{tmp_path}: 2 text files; not read: r.jsonl, in/c.csv\n" in capsys.readouterr().err


def test_documents_come_one_by_one_and_their_sizes_add_up_to_that_of_the_files(tmp_path):
    write(tmp_path / "t.txt", "owls\n\ncafés\nmice".encode() + b"\xff")
    found = read_documents(str(tmp_path / "t.txt"), "text", None)
    assert [next(found).text, next(found).text] == ["owls\n", "cafés\n"]
    with pytest.raises(DpoError, match="is not UTF-8 text"):
        next(found)
    write(tmp_path / "t.txt", "owls\ncafés\n".encode())
    write(tmp_path / "t.jsonl", json.dumps({"text": "owls"}))
    (tmp_path / "texts").mkdir()
    write(tmp_path / "texts" / "1.txt", "owls\ncafés")
    sources = [str(tmp_path / name) for name in ("t.txt", "t.jsonl", "texts")]
    for source in (*sources, sources):
        assert sum(one.size for one in read_documents(source, "text", None)) == source_bytes(source)


def test_labels_of_many_digits_are_sorted_by_value(tmp_path):
    labels = ["9" * 5000, "12345678901234567890", "007", "8", "²", "b"]
    rows = [{"text": "cats chase mice", "kind": label} for label in labels]
    write(tmp_path / "t.jsonl", lines(*rows))
    config = CorpusConfig(
        source=str(tmp_path / "t.jsonl"), folder=str(tmp_path / "new"), label="kind", test_fraction=0
    )
    assert prepare(config).labels == ["007", "8", "12345678901234567890", "9" * 5000, "b", "²"]
    assert read_corpus(tmp_path / "new").labels.tolist() == [3, 2, 0, 1, 5, 4]


def csc_outside(path):
    parts = {"data": np.ones(2, int), "indices": np.array([0, 99999]), "indptr": np.array([0, 1, 2, 2])}
    np.savez(path, format=b"csc", shape=(2, 3), **parts)


def with_ends(ends):
    parts = {"data": np.ones(2, int), "indices": np.array([0, 1]), "indptr": np.array(ends)}
    return lambda path: np.savez(path, format=b"csr", shape=(2, 3), **parts)


def of_format(name):
    return lambda path: np.savez(path, format=name, shape=(2, 3), data=np.ones(2))


def bent(path):
    """A compressed member whose bytes do not unpack."""
    scipy.sparse.save_npz(path, scipy.sparse.csr_matrix(np.ones((50, 3), int)))
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("data.npy")
    for place in range(60, 70):
        flip(path, member.header_offset + place)


def packed_by(method):
    """The head of each member names another method of compression."""

    def damage(path):
        buffer = io.BytesIO()
        scipy.sparse.save_npz(buffer, scipy.sparse.csr_matrix(np.ones((2, 3), int)))
        content = bytearray(buffer.getvalue())
        start = 0
        while (start := content.find(b"PK\x01\x02", start + 1)) > 0:
            content[start + 10] = method
        write(path, bytes(content))

    return damage


BAGS = {
    "a column's place outside": csc_outside,
    "ends that fall": with_ends([0, 2, 1]),
    "an end far outside": with_ends([0, 2**30, 2]),
    "an end below 0": with_ends([0, -(2**30), 2]),
    "lists of lists": of_format(b"lil"),
    "a dictionary": of_format(b"dok"),
    "a format that is a number": of_format(3),
    "a damaged part": bent,
    "an unknown method of compression": packed_by(99),
}


@cases(BAGS)
def test_bags_that_are_no_sparse_matrix_are_told(case, tmp_path):
    write(tmp_path / "vocab.txt", "cat\ndog\nowl\n")
    case(tmp_path / "train_bow.npz")
    with pytest.raises(DpoError) as caught:
        read_corpus(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'train_bow.npz'}: is not a sparse matrix of SciPy\n"
        "  write it with scipy.sparse.save_npz; mlx-dpo topics prepare makes such a folder"
    )
