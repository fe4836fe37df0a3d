"""What a new run removes from its folder: an older run, and nothing that it reads or that others wrote."""

import os

import mlx.core as mx
import numpy as np
import pytest

from ..support.mistakes import cases, lines, write
from ..support.topic_corpus import train_words, write_corpus

OTHER = "choose another folder with --output"
ROW = lines({"k": 0, "w_win_indices": [0, 1], "w_loose_indices": [2]})
VECTORS = ("word_vectors.source=file", "training.train_words=false")
GUIDED = ("dpo.start_epoch=2", "dpo.topic_filter=none")
READ = {
    "the corpus": ((), "corpus", "corpus: is or contains the corpus (corpus.folder)"),
    "a folder with the corpus in it": ((), ".", ".: is or contains the corpus (corpus.folder)"),
    "a link to the corpus": ((), "link", "link: is or contains the corpus (corpus.folder)"),
    "a file of preferences": (
        (*GUIDED, "preferences.file=run/preferences/preferences.jsonl"),
        "run",
        "run: is or contains the file of preferences (preferences.file)",
    ),
    "a file of word vectors": (
        (*VECTORS, "word_vectors.path=run/model.txt"),
        "run",
        "run: is or contains the word vectors (word_vectors.path)",
    ),
    "a local LLM": (
        (*GUIDED, "preferences.model=run/llm"),
        "run",
        "run: is or contains the LLM (preferences.model)",
    ),
    "an embedder": (
        (*GUIDED, "preferences.embedder=run/llm"),
        "run",
        "run: is or contains the embedder (preferences.embedder)",
    ),
}
FOREIGN = {
    "a file in preferences/": (
        ("preferences/beta_ref_logits.npy", "preferences/notes.txt"),
        "preferences/notes.txt, which no run of a topic model has",
    ),
    "preferences without a snapshot": (
        ("preferences/preferences.jsonl", "preferences/replies.jsonl"),
        "preferences/preferences.jsonl, preferences/replies.jsonl without preferences/beta_ref_logits.npy, "
        "which no run of a topic model has",
    ),
    "another corpus": (("train_bow.npz", "vocab.txt"), "train_bow.npz, which no run of a topic model has"),
    "an adapter": (
        ("adapters.safetensors", "adapter_config.json", "config.yaml"),
        "adapters.safetensors, adapter_config.json, which no run of a topic model has",
    ),
    "a model": (
        ("config.json", "model.safetensors"),
        "config.json, which no run of a topic model has",
    ),
}


@pytest.fixture(autouse=True)
def corpus(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(write_corpus(tmp_path / "corpus"))


def content(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@cases(READ)
def test_a_folder_with_what_the_run_reads_is_refused(case, tmp_path, mistake):
    settings, output, told = case
    os.makedirs("run/preferences")
    os.makedirs("run/llm")
    write(tmp_path / "run" / "preferences" / "preferences.jsonl", ROW)
    write(tmp_path / "run" / "model.txt", "bread 1 2\n")
    before = content(tmp_path)
    for more in ([], ["--overwrite"]):
        assert str(mistake(*train_words(*settings, output=output), *more)) == f"{told}\n  {OTHER}"
    assert content(tmp_path) == before


@cases(FOREIGN)
def test_a_folder_with_files_of_others_is_refused(case, tmp_path, mistake):
    files, told = case
    for name in files:
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / "run" / name, "mine\n")
    before = content(tmp_path)
    for more in ([], ["--overwrite"]):
        assert str(mistake(*train_words(), *more)) == f"run: contains {told}\n  {OTHER}"
    assert content(tmp_path) == before


def test_a_run_goes_on_beside_notes_and_is_replaced_without_its_snapshot(tmp_path, outcome, mistake):
    write(tmp_path / "wanted.jsonl", ROW)
    command = train_words("training.epochs=3", *GUIDED, "preferences.file=wanted.jsonl")
    assert outcome(*command)[0] == 0
    notes = tmp_path / "run" / "preferences" / "notes.txt"
    notes.write_text("mine\n")
    assert outcome(*command)[0] == 0
    assert mistake(*command, "--overwrite").what == (
        "contains preferences/notes.txt, which no run of a topic model has"
    )
    notes.unlink()
    (tmp_path / "run" / "preferences" / "beta_ref_logits.npy").unlink()
    assert outcome(*command, "--overwrite")[0] == 0


def test_a_run_that_was_killed_at_its_snapshot_can_be_replaced(tmp_path, outcome):
    """Top words of a snapshot are there before its logits."""
    os.makedirs("run/preferences")
    write(tmp_path / "run" / "preferences" / "top_words_10.txt", "bread\n")
    assert outcome(*train_words("training.epochs=1"), "--overwrite")[0] == 0
    assert not (tmp_path / "run" / "preferences").exists()


def test_a_finished_run_needs_its_file_of_word_vectors_no_more(tmp_path, outcome, mistake):
    """The vectors of the file are those that the topics learn from."""
    drawn = np.random.default_rng(0).normal(size=(24, 5))
    words = (tmp_path / "corpus" / "vocab.txt").read_text().split()
    text = "".join(f"{w} {' '.join(map(str, row))}\n" for w, row in zip(words, drawn, strict=True))
    write(tmp_path / "vectors.txt", text)
    command = train_words(*VECTORS, "word_vectors.path=vectors.txt", "training.epochs=1")
    assert outcome(*command)[0] == 0
    found = np.array(mx.load("run/model.safetensors")["word_vectors"])
    np.testing.assert_allclose(found, drawn / np.linalg.norm(drawn, axis=1, keepdims=True), atol=1e-6)
    write(tmp_path / "vectors.txt", text.replace("1", "2"))
    assert mistake(*command).what == (
        "the run in this folder was started differently: the file of word vectors (word_vectors.path) changed"
    )
    (tmp_path / "vectors.txt").unlink()
    code, _, errors = outcome(*command)
    assert code == 0, errors
