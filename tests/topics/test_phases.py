"""Preferences in the second phase of a run: what they change, and what they leave alone."""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest

from mlx_dpo.topics.top_words import top_words

from ..support.topic_corpus import THEMES, VOCABULARY, results_of, rows_of, train_words, write_corpus

START, EPOCHS, STEPS = 5, 15, 3
"""The phases of the runs here, in epochs, and updates per epoch."""
GUIDED = (
    f"training.epochs={EPOCHS}",
    f"dpo.start_epoch={START}",
    "dpo.weight=20",
    "dpo.topic_filter=none",
    "preferences.file=wanted.jsonl",
)
WIN, LOSE = ([VOCABULARY.index(word) for word in theme.split()[:4]] for theme in THEMES[:2])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A corpus, and preferences that make the first topic one of bread and not of space."""
    monkeypatch.chdir(tmp_path)
    write_corpus(tmp_path / "corpus")
    row = {"k": 0, "w_win_indices": WIN, "w_loose_indices": LOSE}
    (tmp_path / "wanted.jsonl").write_text(json.dumps(row) + "\n")
    return tmp_path


@pytest.fixture
def run(folder, outcome):
    """Run with preferences and these settings too; the folder of the run."""

    def go(*settings, output="run"):
        code, _, errors = outcome(*train_words(*GUIDED, *settings, output=output))
        assert code == 0, errors
        return folder / output

    return go


def weights_at(run, step):
    arrays = mx.load(str(run / "checkpoints" / f"{step:06d}" / "model.safetensors"))
    return {name: np.array(value) for name, value in arrays.items()}


def margins(logits):
    """Mean logit of the winners minus that of the losers, in the first topic."""
    return logits[0, WIN].mean() - logits[0, LOSE].mean()


def logits_of(weights):
    distances = ((weights["topic_vectors"][:, None] - weights["word_vectors"][None]) ** 2).sum(axis=2)
    return -distances / 0.2


def test_winners_rise_above_losers_in_their_topic(run):
    folder = run()
    before = np.load(folder / "preferences" / "beta_ref_logits.npy")
    after = logits_of(weights_at(folder, EPOCHS * STEPS))
    assert margins(after) > margins(before) + 1
    assert place(after, WIN) < place(before, WIN) and place(after, LOSE) > place(before, LOSE)


def test_the_end_says_in_how_many_pairs_the_winner_leads(folder, outcome):
    _, _, errors = outcome(*train_words(*GUIDED))
    before = np.load(folder / "run" / "preferences" / "beta_ref_logits.npy")
    after = logits_of(weights_at(folder / "run", EPOCHS * STEPS))
    was, now = (np.mean([own[0, w] > own[0, v] for w in WIN for v in LOSE]) for own in (before, after))
    assert now > was
    assert (
        f"winners rank above losers in {now:.0%} of the pairs of words, {was:.0%} at the snapshot" in errors
    )


def place(logits, words):
    """Mean place of the words in the order of the first topic."""
    order = top_words(logits, len(VOCABULARY))[0].tolist()
    return np.mean([order.index(word) for word in words])


def test_the_reference_is_the_model_at_the_snapshot_which_is_kept(run):
    folder = run()
    reference = np.load(folder / "preferences" / "beta_ref_logits.npy")
    np.testing.assert_allclose(reference, logits_of(weights_at(folder, START * STEPS)), rtol=1e-4, atol=1e-4)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["000015", "000045"]


def test_the_loss_of_preferences_starts_at_ln_2_and_falls(run):
    rows = rows_of(run("dpo.alpha=0.5"))
    assert [row["phase"] for row in rows] == ["base"] * START + ["dpo"] * (EPOCHS - START)
    assert all("loss/dpo" not in row for row in rows[:START])
    losses = [row["loss/dpo"] / 20 for row in rows[START:]]
    assert losses[0] == pytest.approx(np.log(2), rel=0.1)
    assert losses[-1] < 0.8 * losses[0]


def test_before_the_snapshot_a_run_is_the_same_as_without_preferences(run, folder, outcome):
    assert outcome(*train_words(f"training.epochs={START}", output="plain"))[0] == 0
    assert rows_of(folder / "plain") == rows_of(run())[:START]


def test_patience_waits_for_the_preferences(run, folder, outcome):
    own = ("training.patience=1", "training.epochs=100", "optimizer.learning_rate=0.3")
    assert outcome(*train_words(*own, output="plain"))[0] == 0
    ended = len(rows_of(folder / "plain"))
    assert ended < 99
    phases = [row["phase"] for row in rows_of(run(*own, f"dpo.start_epoch={ended + 1}", output="guided"))]
    assert phases.count("base") == ended + 1 and "dpo" in phases


def test_word_vectors_are_frozen_and_topics_go_on_learning(run):
    folder = run()
    before, after = weights_at(folder, START * STEPS), weights_at(folder, EPOCHS * STEPS)
    assert (before["word_vectors"] == after["word_vectors"]).all()
    assert np.abs(before["topic_vectors"] - after["topic_vectors"]).max() > 0.01
    assert np.abs(before["hidden.weight"] - after["hidden.weight"]).max() > 0.001


def test_the_anchor_holds_the_other_topics(run):
    moved = {}
    for weight in (0, 50):
        folder = run(f"dpo.anchor_weight={weight}", output=f"run-{weight}")
        before = np.load(folder / "preferences" / "beta_ref_logits.npy")
        after = logits_of(weights_at(folder, EPOCHS * STEPS))
        moved[weight] = np.square(after - before)[1:].mean()
        assert margins(after) > margins(before)
    assert moved[50] < 0.3 * moved[0]


def test_the_topics_that_were_chosen_are_written_down(run):
    assert (run() / "preferences" / "dpo_selected_topics.jsonl").read_text() == '{"k": 0}\n'


def test_preferences_without_weight_change_no_topic(run, folder, outcome):
    """Only the word vectors are frozen."""
    frozen = "training.train_words=false", "word_vectors.source=corpus", "model.embedding_size=6"
    assert outcome(*train_words(f"training.epochs={EPOCHS}", *frozen, output="plain"))[0] == 0
    guided = run("dpo.weight=0", *frozen)
    assert (np.load(guided / "beta.npy") == np.load(folder / "plain" / "beta.npy")).all()


def test_a_run_goes_on_in_the_second_phase_as_if_it_had_not_stopped(run, folder, forked):
    whole = results_of(run())
    command = train_words(*GUIDED, "training.save_minutes=0.000001", output="stopped")
    process = forked(*command, cwd=folder)
    wait_for(process, folder / "stopped" / "checkpoints", START * STEPS + 5)
    process.send_signal(9)
    assert process.wait() == -9
    again = forked(*command, cwd=folder)
    assert again.wait() == 0, again.stderr
    assert results_of(folder / "stopped") == whole


def wait_for(process, checkpoints, step):
    while process.poll() is None and not any(int(p.name) >= step for p in checkpoints.glob("0*")):
        pass


def test_preferences_that_change_during_a_run_are_refused(run, folder, outcome):
    own = ("training.save_minutes=0.000001", "training.keep_checkpoints=100")
    run(*own)
    shutil.rmtree(folder / "run" / "checkpoints" / f"{EPOCHS * STEPS:06d}")  # as if killed at the end
    path = folder / "run" / "preferences" / "beta_ref_logits.npy"
    np.save(path, np.load(path) + 1)
    code, _, errors = outcome(*train_words(*GUIDED, *own))
    assert code == 1
    assert "the preferences have changed since the run began to use them" in errors


def test_another_file_of_preferences_is_refused(run, folder, mistake):
    run()
    row = {"k": 1, "w_win_indices": WIN, "w_loose_indices": LOSE}
    (folder / "wanted.jsonl").write_text(json.dumps(row) + "\n")
    assert str(mistake(*train_words(*GUIDED))) == (
        "run: the run in this folder was started differently: the file of preferences (preferences.file) "
        "changed\n  undo the change to continue, or restart with --overwrite"
    )


def test_without_an_llm_vectors_of_the_words_guide_the_weak_topics(folder, outcome):
    settings = (f"training.epochs={EPOCHS}", f"dpo.start_epoch={START}", "dpo.topic_filter=cv_below_average")
    code, _, errors = outcome(*train_words(*settings))
    assert code == 0, errors
    names = {path.name for path in (folder / "run" / "preferences").glob("*.*")}
    stages = ("topic_scores", "topic_descriptions", "extra_words", "preferences", "dpo_selected_topics")
    assert {f"{stage}.jsonl" for stage in stages} | {"beta_ref_logits.npy", "top_words_15.txt"} <= names
    chosen = (folder / "run" / "preferences" / "dpo_selected_topics.jsonl").read_text().splitlines()
    assert f"preferences: {len(chosen)} topic" in errors and 0 < len(chosen) < 3


def test_a_filter_that_needs_texts_is_refused_before_training_without_them(folder, refused_at):
    (folder / "corpus" / "train_texts.txt").unlink()
    command = train_words(*GUIDED, "dpo.topic_filter=cv_below_average")
    refused_at(" ".join(command), "dpo.topic_filter", "needs the texts of the corpus", "add the file")


def test_preferences_that_begin_after_the_end_are_refused(folder, refused_at):
    command = train_words("dpo.start_epoch=6")
    refused_at(
        " ".join(command), "dpo.start_epoch", "is 6, but the run ends after 6 epochs", "below training.epochs"
    )
