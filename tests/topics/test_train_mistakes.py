"""Mistakes before and during topics train: each is told with its remedy, and no file is touched."""

import shutil

import numpy as np
import pytest

from mlx_dpo.training.checkpoint_folder import save_checkpoint

from ..support.topic_corpus import results_of, train_words, write_corpus


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_corpus(tmp_path / "corpus")


def test_a_folder_with_other_files_is_left_alone(corpus, tmp_path, mistake):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "vocab.txt").write_text("mine\n")
    told = mistake(*train_words())
    assert told.what == "contains vocab.txt, which a run would replace" and "--overwrite" in told.hint


def test_a_folder_with_a_run_of_another_command_is_left_alone(corpus, tmp_path, mistake):
    facts = {"step": 3}
    save_checkpoint(tmp_path / "run", 3, {"x": np.zeros(2)}, facts, lambda folder: None)
    assert str(mistake(*train_words())) == (
        "run: contains a run of another command\n  choose another folder with --output"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [("file", "some"), ("url", "http://127.0.0.1:9"), ("model", "some"), ("embedder", "some")],
)
def test_preferences_that_a_run_would_not_use_are_refused(corpus, tmp_path, name, value, mistake):
    assert str(mistake(*train_words(f"preferences.{name}={value}"))) == (
        f"preferences.{name}: has no effect, because dpo.start_epoch is null\n  set dpo.start_epoch to the "
        f"epochs before preferences are used, or preferences.{name}=null"
    )
    assert not (tmp_path / "run").exists()


def test_a_model_that_does_not_fit_into_memory_is_refused(corpus, tmp_path, mistake):
    told = mistake(*train_words("model.encoder_size=100000"))
    assert told.where == "model"
    assert told.what.startswith("with 24 words an update needs at least 160.1 GB, but the machine has ")
    assert told.hint == (
        "lower training.batch_size, model.encoder_size, model.embedding_size, model.topics or "
        "corpus.vocabulary_size"
    )
    assert not (tmp_path / "run").exists()


def test_nothing_can_be_resumed_where_nothing_was_started(corpus, mistake):
    assert mistake(*train_words(), "--resume").what == "has no checkpoint to resume from"


def test_a_refused_start_leaves_no_folder(corpus, tmp_path, mistake):
    mistake(*train_words(), "--resume")
    (tmp_path / "vectors.txt").write_text("Brot 1 2\n")
    mistake(*train_words("word_vectors.source=file", "word_vectors.path=vectors.txt"))
    mistake(*train_words("dpo.start_epoch=2", "preferences.url=http://127.0.0.1:9/v1"))
    assert not (tmp_path / "run").exists()


def test_starting_anew_and_resuming_exclude_each_other(corpus, outcome):
    code, _, errors = outcome(*train_words(), "--overwrite", "--resume")
    assert code == 2 and "--overwrite starts a new run" in errors


def test_a_damaged_checkpoint_is_passed_over(corpus, tmp_path, outcome):
    command = train_words("training.save_minutes=0.000001", "training.keep_checkpoints=3")
    assert outcome(*command)[0] == 0
    whole = results_of(tmp_path / "run")
    newest = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    (newest / "model.safetensors").write_bytes(b"half")
    code, _, errors = outcome(*command)
    assert code == 0 and "the checkpoint before it is used" in errors
    assert results_of(tmp_path / "run") == whole


def test_a_run_whose_checkpoints_are_gone_is_not_replaced_silently(corpus, tmp_path, outcome, mistake):
    assert outcome(*train_words())[0] == 0
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert "which a run would replace" in mistake(*train_words()).what


def test_another_process_in_the_same_folder_is_told(corpus, tmp_path, forked, outcome):
    process = forked(*train_words("training.epochs=100000"), cwd=tmp_path)
    while process.poll() is None and not (tmp_path / "run" / "metrics.jsonl").exists():
        pass
    code, _, errors = outcome(*train_words())
    still = process.poll() is None
    process.send_signal(9)
    assert still, process.stderr
    assert code == 1 and "another process is training in this folder" in errors
