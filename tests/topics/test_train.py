"""The command topics train: what it learns, and what it leaves in its folder."""

import shutil

import mlx.core as mx
import numpy as np
import pytest
from scipy.sparse import load_npz, save_npz

from mlx_dpo.errors import DpoError
from mlx_dpo.optimizers import OptimizerConfig, optimizer_at
from mlx_dpo.topics.config import load_topics_config
from mlx_dpo.topics.corpus import read_corpus
from mlx_dpo.topics.ecrtm import ECRTM
from mlx_dpo.topics.model_files import document_topics, settle_norms
from mlx_dpo.topics.state import TopicState
from mlx_dpo.topics.top_words import FILES
from mlx_dpo.topics.train import train

from ..support.topic_corpus import (
    SHORT,
    THEMES,
    VOCABULARY,
    results_of,
    rows_of,
    train_words,
    write_corpus,
)


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_corpus(tmp_path / "corpus")


def test_themes_become_topics(corpus, tmp_path, outcome):
    code, said, errors = outcome(
        *train_words(
            "training.epochs=60",
            "word_vectors.source=corpus",
            "training.report_epochs=20",
            "model.sinkhorn_iterations=51",
        )
    )
    assert code == 0, errors
    assert "top words: run/top_words_10.txt\nnext: mlx-dpo topics eval --run run\n" in said
    topics = [
        set(line.split()[:6]) for line in (tmp_path / "run" / "top_words_10.txt").read_text().splitlines()
    ]
    assert all(max(len(topic & set(theme.split())) for topic in topics) >= 5 for theme in THEMES)
    assert [row["epoch"] for row in rows_of(tmp_path / "run")] == [20, 40, 60]


def test_the_folder_holds_the_model_and_what_it_says(corpus, tmp_path, outcome):
    assert outcome(*train_words())[0] == 0
    run = tmp_path / "run"
    beta, theta, test = (np.load(run / f"{name}.npy") for name in ("beta", "theta_train", "theta_test"))
    assert (beta.shape, theta.shape, test.shape) == ((3, len(VOCABULARY)), (60, 3), (20, 3))
    assert {array.dtype for array in (beta, theta, test)} == {np.dtype(np.float32)}
    np.testing.assert_allclose(beta.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_allclose(theta.sum(axis=1), 1, atol=1e-5)
    assert set(FILES) <= {path.name for path in run.iterdir()}
    assert (run / "vocab.txt").read_text().split() == VOCABULARY
    rows = rows_of(run)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["loss"] < rows[0]["loss"]
    for row in rows:
        parts = [row[f"loss/{name}"] for name in ("reconstruction", "kl", "ecr")]
        assert row["loss"] == pytest.approx(sum(parts)) and row["phase"] == "base"


def test_held_out_documents_get_their_own_topics(corpus, tmp_path, outcome):
    for kind in ("bow.npz", "texts.txt", "labels.txt"):
        shutil.copy(corpus / f"train_{kind}", corpus / f"test_{kind}")
    save_npz(corpus / "test_bow.npz", load_npz(corpus / "train_bow.npz")[::-1])
    assert outcome(*train_words())[0] == 0
    theta, test = (np.load(tmp_path / "run" / f"theta_{part}.npy") for part in ("train", "test"))
    np.testing.assert_allclose(test, theta[::-1], atol=1e-6)


def test_the_topics_of_a_document_do_not_depend_on_other_documents(corpus):
    bags = read_corpus(corpus).bags
    model = ECRTM(len(VOCABULARY), load_topics_config(None, SHORT).model)
    settle_norms(model, bags)
    model.train()
    few = document_topics(model, bags[:5])
    model.train()
    np.testing.assert_allclose(few, document_topics(model, bags)[:5], atol=1e-6)


def test_the_settings_of_a_run_repeat_it(corpus, tmp_path, outcome):
    assert outcome(*train_words("training.seed=4", "model.dropout=0.2"))[0] == 0
    again = ["topics", "train", "--config", "run/config.yaml", "--output", "again"]
    assert outcome(*again)[0] == 0
    assert results_of(tmp_path / "again") == results_of(tmp_path / "run")


def test_a_run_that_was_started_differently_is_not_continued(corpus, tmp_path, outcome, mistake):
    assert outcome(*train_words())[0] == 0
    told = mistake(*train_words("training.seed=5", "training.save_minutes=1"))
    assert told.what == "the run in this folder was started differently: training.seed is 5, was 0"


@pytest.mark.parametrize("name", ["vocab.txt", "train_texts.txt", "train_bow.npz"])
def test_a_run_on_another_corpus_is_not_continued(corpus, name, outcome, mistake):
    assert outcome(*train_words())[0] == 0
    if name == "train_bow.npz":
        bags = load_npz(corpus / name)
        bags.data[0] += 1
        save_npz(corpus / name, bags)
    else:
        text = (corpus / name).read_text()
        (corpus / name).write_text(text.replace("bread", "breads", 1))
    assert str(mistake(*train_words())) == (
        "run: the run in this folder was started differently: the corpus (corpus.folder) changed\n  undo the "
        "change to continue, or restart with --overwrite"
    )


def test_another_seed_gives_another_model(corpus, tmp_path, outcome):
    for seed in (0, 1):
        assert outcome(*train_words(f"training.seed={seed}", output=f"run-{seed}"))[0] == 0
    first, second = (np.load(tmp_path / f"run-{seed}" / "beta.npy") for seed in (0, 1))
    assert np.abs(first - second).max() > 0.01


def test_the_learning_rate_halves_as_often_as_asked(corpus, tmp_path, outcome):
    assert outcome(*train_words("optimizer.halve_epochs=2"))[0] == 0
    assert [row["learning_rate"] for row in rows_of(tmp_path / "run")] == [
        0.01,
        0.01,
        0.005,
        0.005,
        0.0025,
        0.0025,
    ]


def test_words_that_are_not_trained_stay_where_they_started(corpus, tmp_path, outcome):
    for trained in ("true", "false"):
        given = f"training.train_words={trained}", "word_vectors.source=corpus"
        assert outcome(*train_words(*given, output=trained))[0] == 0
    first = mx.load(str(tmp_path / "false" / "checkpoints" / "000018" / "model.safetensors"))["word_vectors"]
    lengths = np.linalg.norm(np.array(first), axis=1)
    assert lengths == pytest.approx(1, abs=1e-5)
    moved = np.array(mx.load(str(tmp_path / "true" / "model.safetensors"))["word_vectors"])
    assert np.abs(np.linalg.norm(moved, axis=1) - 1).max() > 0.01


def test_a_finished_run_is_left_as_it_is(corpus, tmp_path, outcome):
    assert outcome(*train_words())[0] == 0
    before = results_of(tmp_path / "run")
    assert outcome(*train_words())[0] == 0
    assert results_of(tmp_path / "run") == before


def test_a_run_can_be_replaced(corpus, tmp_path, outcome):
    assert outcome(*train_words("training.seed=9"))[0] == 0
    (tmp_path / "run" / "report.html").write_text("of the old run")
    assert outcome(*train_words(), "--overwrite")[0] == 0
    assert not (tmp_path / "run" / "report.html").exists()
    assert outcome(*train_words(output="fresh"))[0] == 0
    assert results_of(tmp_path / "run") == results_of(tmp_path / "fresh")


def test_a_run_ends_early_where_patience_is_asked_for(corpus, tmp_path, outcome):
    code, _, errors = outcome(
        *train_words("training.patience=2", "training.epochs=200", "optimizer.learning_rate=0.3")
    )
    assert code == 0 and "the run ended early: no lower training loss in 2 epochs" in errors
    assert len(rows_of(tmp_path / "run")) < 200


def test_the_last_epoch_is_logged_when_a_run_ends_early(corpus, tmp_path, outcome):
    own = ("training.patience=2", "training.epochs=200", "optimizer.learning_rate=0.3")
    assert outcome(*train_words(*own, output="each"))[0] == 0
    code, _, errors = outcome(*train_words(*own, "training.report_epochs=100"))
    assert code == 0, errors
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "each")[-1:]


def test_ctrl_c_saves_between_two_updates_and_the_run_goes_on(corpus, tmp_path, outcome, forked):
    assert outcome(*train_words("training.epochs=60", output="whole"))[0] == 0
    command = train_words("training.epochs=60")
    process = forked(*command, cwd=tmp_path)
    while process.poll() is None and not (tmp_path / "run" / "metrics.jsonl").exists():
        pass
    process.send_signal(2)
    assert process.wait() == 130, process.stderr
    assert "interrupted: everything so far is saved in run/checkpoints" in process.stderr
    assert 0 < len(rows_of(tmp_path / "run")) < 60
    assert outcome(*command)[0] == 0
    assert results_of(tmp_path / "run") == results_of(tmp_path / "whole")


def test_a_loss_that_is_not_finite_ends_the_run_with_the_remedy(corpus):
    own = load_topics_config(None, [*SHORT, "corpus.folder=corpus"])
    model = ECRTM(len(VOCABULARY), own.model)
    model.topic_vectors = mx.full(model.topic_vectors.shape, np.nan)
    optimizer = optimizer_at(OptimizerConfig(name="adam"), 0.01)
    nothing = {"save": lambda state: None, "log": lambda row: None}
    with pytest.raises(DpoError) as error:
        train(model, optimizer, read_corpus(corpus).bags, own, TopicState(), **nothing)
    assert str(error.value) == (
        "the loss is not finite in epoch 1 (its part reconstruction, ecr)\n  start another run with a lower "
        "optimizer.learning_rate or model.ecr_weight: give it another --output"
    )
