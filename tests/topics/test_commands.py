"""The commands around training: prepare, prefer, eval."""

import json
import shutil

import numpy as np
import pytest

from mlx_dpo.topics.preferences import LOGITS

from ..support.topic_corpus import train_words
from ..support.topic_server import CAT, SUN, VOCABULARY, by_function, corpus, logits


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A corpus whose texts are the themes of `topic_server`, and the snapshot of its topics."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text("".join(f"{text}\n" for text in corpus().texts))
    (tmp_path / "run" / "preferences").mkdir(parents=True)
    np.save(tmp_path / "run" / "preferences" / LOGITS, logits())
    return tmp_path


@pytest.fixture
def prepared(folder, outcome):
    outcome("topics", "prepare", "--source", "texts.txt", "--output", "corpus")
    return folder


def test_prepare_prints_what_was_kept_and_the_next_command(folder, outcome):
    code, out, _ = outcome("topics", "prepare", "--source", "texts.txt", "--output", "corpus")
    assert code == 0
    assert out.splitlines() == [
        "corpus: 640 documents to train on, 160 held out",
        "vocabulary: 96 of 96 words; 5.0 of them in a document on average",
        "next: mlx-dpo topics train --corpus corpus",
    ]
    code, out, _ = outcome(
        "topics", "prepare", "--source", "texts.txt", "--output", "corpus", "--overwrite", "--json"
    )
    assert json.loads(out)["documents"] == 640


def test_the_next_command_keeps_the_settings_of_this_one(folder, outcome):
    (folder / "my topics.yaml").write_text("corpus: {source: texts.txt, folder: mine}\nmodel: {topics: 3}\n")
    given = ["--set", "model.topics=2", "--set", "corpus.vocabulary_size=50", "--set", "model.topics=4"]
    code, out, _ = outcome("topics", "prepare", "--config", "my topics.yaml", *given)
    assert code == 0
    command = "mlx-dpo topics train --config 'my topics.yaml' --set model.topics=4 --corpus mine"
    assert out.splitlines()[-1] == f"next: {command}"


def test_prepare_does_not_replace_a_folder_by_itself(prepared, refused_at):
    refused_at("topics prepare --source texts.txt --output corpus", "corpus", "exists already", "--overwrite")
    refused_at("topics prepare --output new", "corpus.source", "there are no texts", "a text file")


def test_prefer_prints_the_cost_asks_and_writes(prepared, outcome, serve):
    server = serve(by_function)
    command = ["topics", "prefer", "--corpus", "corpus", "--output", "run", "--endpoint", server.url]
    code, out, _ = outcome(*command, "--dry-run", "--set", "preferences.input_price=1")
    assert (code, server.calls) == (0, 0)
    assert out.startswith("4 topics: at most 12 requests to send, about ")
    assert "price about 0.00" in out
    code, out, _ = outcome(*command)
    assert (code, server.calls) == (0, 12)
    assert out == "2 topics with preferences: run/preferences\n"
    _, out, _ = outcome(*command, "--dry-run", "--json")
    assert json.loads(out)["requests"] == 0
    code, out, _ = outcome(*command, "--json")
    assert server.calls == 12
    preferred = json.loads(out)["preferences"]["1"]
    assert preferred["w_loose"] == SUN[:4]
    assert set(preferred["w_win"]) <= set(CAT)


def test_prefer_without_a_snapshot_or_an_llm_is_told(prepared, refused_at):
    refused_at(
        "topics prefer --corpus corpus --output new",
        f"new/preferences/{LOGITS}",
        "no such file",
        "topics train writes it",
    )
    refused_at(
        "topics prefer --corpus corpus --output run --dry-run",
        "preferences.url",
        "there is no LLM",
        "preferences.model",
    )


def test_without_a_snapshot_the_cost_is_that_of_the_topics_in_the_settings(prepared, outcome):
    command = "topics prefer --corpus corpus --output new --model some --dry-run --json --set model.topics=7"
    _, out, _ = outcome(*command.split())
    assert json.loads(out)["requests"] == 21


def test_training_with_preferences_that_cannot_be_had_is_refused_before_it_begins(prepared, refused_at):
    (prepared / "wrong.jsonl").write_text('{"k": 9, "w_win_indices": [0], "w_loose_indices": [1]}\n')
    start = ("dpo.start_epoch=2", "training.epochs=4")
    for setting, place, what in (
        ("preferences.file=wrong.jsonl", "wrong.jsonl:1", "k must be a topic from 0 to 2"),
        ("preferences.url=http://127.0.0.1:9/v1", "preferences.url", "no server answers"),
    ):
        command = " ".join(train_words(*start, setting, output="new"))
        refused_at(command, place, what)


@pytest.fixture
def finished(prepared):
    """The folder of a run with the results that eval reads."""
    run = prepared / "run"
    (run / "config.yaml").write_text("corpus: {folder: corpus}\n")
    rows = []
    for k, words in enumerate(np.arange(96).reshape(4, 24)[:, :15].tolist()):
        rows.append({"k": k, "top_words": [{VOCABULARY[word]: word} for word in words]})
    (run / "top_words_15.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    np.save(run / "theta_test.npy", np.eye(4)[np.arange(160) % 4])
    return prepared


def test_eval_prints_figures_of_10_and_15_top_words(finished, outcome):
    code, out, _ = outcome("topics", "eval", "--run", "run")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["4", "topics", "top", "10", "top", "15"]
    assert lines[3].split()[-2:] == ["1.000", "1.000"]
    assert lines[-1] == "no labels of held-out documents: no purity, no NMI"
    (finished / "corpus" / "test_labels.txt").write_text("".join(f"{n % 4}\n" for n in range(160)))
    _, out, _ = outcome("topics", "eval", "--run", "run", "--json")
    found = json.loads(out)
    assert found["clustering"] == {"documents": 160, "labels": 4, "purity": 1.0, "nmi": 1.0}
    words = found["top_words"][1]
    assert words["c_v"] == pytest.approx(np.mean(words["c_v_of_topics"]))
    assert words["quality"] == pytest.approx(words["c_v"])  # all words differ


def test_eval_of_bags_without_texts_has_no_coherence(finished, outcome):
    (finished / "corpus" / "train_texts.txt").unlink()
    _, out, _ = outcome("topics", "eval", "--run", "run", "--json")
    words = json.loads(out)["top_words"][0]
    assert (words["c_v"], words["npmi"], words["quality"], words["unique"]) == (None, None, None, 1.0)


def test_eval_of_what_does_not_fit_is_told(finished, refused_at):
    np.save(finished / "run" / "theta_test.npy", np.eye(4))
    (finished / "corpus" / "test_labels.txt").write_text("1\n" * 160)
    refused_at("topics eval --run run", "run/theta_test.npy", "has the shape (4, 4), not (160, 1 or more)")
    shutil.copytree("corpus", "other")
    words = (finished / "other" / "vocab.txt").read_text().split()
    (finished / "other" / "vocab.txt").write_text("\n".join(words[::-1]))
    refused_at(
        "topics eval --run run --corpus other",
        "run/top_words_15.jsonl:1",
        "that the corpus numbers otherwise",
    )
    (finished / "run" / "top_words_15.jsonl").unlink()
    refused_at("topics eval --run run", "run", "has no top words: the run is not finished")
    refused_at("topics eval --run corpus", "corpus", "contains no run of a topic model")
