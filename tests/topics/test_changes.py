"""What preferences changed: words and figures of a run's topics, at the snapshot and at the end."""

import json

import numpy as np
import pytest

from mlx_dpo.errors import DpoError
from mlx_dpo.topics.changes import kept_words, mean_change, read_changes
from mlx_dpo.topics.coherence import c_v, npmi
from mlx_dpo.topics.corpus import read_corpus

from ..support.topic_corpus import train_words, write_corpus


@pytest.fixture
def run(tmp_path, outcome):
    """Train with these settings too; the run's folder and its corpus."""

    def go(*settings):
        write_corpus(tmp_path / "corpus")
        code, _, errors = outcome(*train_words(*settings))
        assert code == 0, errors
        return tmp_path / "run", read_corpus(tmp_path / "corpus")

    return go


def lists(path):
    return [line.split() for line in path.read_text().splitlines()]


def test_a_mean_change_is_paired_by_topic_and_has_students_interval():
    """Changes 0.1 and 0.3: mean 0.2, standard error 0.1, t of one degree of freedom 12.706."""
    found = mean_change(np.array([0.1, 9.0, 0.4]), np.array([0.2, 9.0, 0.7]), [0, 2])
    assert found.topics == 2
    assert (found.before, found.after, found.change) == pytest.approx((0.25, 0.45, 0.2))
    assert (found.low, found.high) == pytest.approx((0.2 - 1.2706, 0.2 + 1.2706), abs=1e-4)


def test_the_change_of_one_topic_has_no_interval():
    found = mean_change(np.array([0.1, 0.2]), np.array([0.4, 0.2]), [0])
    assert found.change == pytest.approx(0.3)
    assert (found.low, found.high) == (None, None)


def test_kept_words_count_wherever_they_rank():
    before, after = np.array([[0, 1, 2, 3], [4, 5, 6, 7]]), np.array([[3, 2, 8, 9], [7, 6, 5, 4]])
    assert kept_words(before, after).tolist() == [0.5, 1.0]


def test_words_and_figures_are_those_of_the_snapshot_and_of_the_end(run):
    folder, corpus = run("dpo.start_epoch=3", "dpo.topic_filter=npmi_below_average", "dpo.weight=20")
    changes = read_changes(folder, folder / "preferences", corpus)
    picked = [
        json.loads(line)["k"]
        for line in (folder / "preferences" / "dpo_selected_topics.jsonl").read_text().splitlines()
    ]
    assert picked and list(changes.improved) == picked
    assert sorted([*picked, *changes.others]) == [0, 1, 2]
    for moment, place in ((changes.snapshot, folder / "preferences"), (changes.end, folder)):
        words = [[corpus.vocabulary[word] for word in topic] for topic in moment.words]
        assert words == lists(place / "top_words_15.txt")
        assert moment.c_v == pytest.approx(c_v(corpus.texts, corpus.vocabulary, moment.words))
        assert moment.npmi == pytest.approx(npmi(corpus.texts, corpus.vocabulary, moment.words))
    assert (changes.snapshot.words != changes.end.words).any()
    beta = np.load(folder / "beta.npy")
    assert (changes.end.shares == np.take_along_axis(beta, changes.end.words, axis=1)).all()
    logits = np.load(folder / "preferences" / "beta_ref_logits.npy").astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum(axis=0)
    assert changes.snapshot.shares == pytest.approx(
        np.take_along_axis(shares, changes.snapshot.words, axis=1), rel=1e-6
    )


def test_a_run_without_preferences_has_only_an_end(run):
    folder, corpus = run()
    changes = read_changes(folder, folder / "preferences", corpus)
    assert changes.snapshot is None
    assert (dict(changes.improved), changes.others) == ({}, [0, 1, 2])


def test_an_unfinished_run_is_refused(tmp_path):
    write_corpus(tmp_path / "corpus")
    with pytest.raises(DpoError, match="not finished"):
        read_changes(tmp_path, tmp_path / "preferences", read_corpus(tmp_path / "corpus"))
