"""The LLM and the embedder of the preferences are checked before slow or paid work, if it is still ahead."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from mlx_dpo.errors import DpoError
from mlx_dpo.topics.config import load_topics_config
from mlx_dpo.topics.guidance import build_guidance
from mlx_dpo.topics.preferences import LOGITS, build_preferences
from mlx_dpo.topics.preferences_config import PreferencesConfig

from ..support.openai_server import Fails, Says
from ..support.topic_corpus import train_words, write_corpus
from ..support.topic_server import by_function, corpus, function_of, listed, logits

GUIDED = (
    "training.epochs=4",
    "dpo.start_epoch=2",
    "dpo.topic_filter=none",
    "preferences.key_variable=NO_KEY",
)
NO_KEY = (
    "preferences.key_variable: the server needs a key, and there is none in the environment variable NO_KEY "
    "(Incorrect API key: Bearer none)\n"
    "  export NO_KEY=..., or set preferences.key_variable to another variable's name"
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_corpus(tmp_path / "corpus")
    return tmp_path


def judging(body):
    """An LLM for which the first word of each list is good, and the second one is bad."""
    k, function = listed(body, "Topic"), function_of(body)
    if function == "score_topic":
        return Says(None, call=json.dumps({"k": k, "llm_score": 2}))
    if function == "describe_topic":
        return Says(None, call=json.dumps({"k": k, "main_meaning": listed(body, "Top words")[0]}))
    win, lose = [*listed(body, "List A").values()][:2]
    return Says(None, call=json.dumps({"k": k, "w_win_indices": [win], "w_loose_indices": [lose]}))


def test_an_llm_is_checked_before_training_continues_towards_it(folder, serve, outcome, mistake):
    server = serve(lambda body: Fails(400, "not today"))
    command = train_words(*GUIDED, f"preferences.url={server.url}")
    assert outcome(*command)[0] == 1
    shutil.rmtree(folder / "run" / "checkpoints" / "000006")  # as if stopped before the snapshot
    shutil.rmtree(folder / "run" / "preferences")
    server.key = "right"
    assert str(mistake(*command)) == NO_KEY


def test_an_llm_that_has_done_its_work_is_not_needed_any_more(folder, serve, outcome):
    server = serve(judging)
    command = train_words(*GUIDED, f"preferences.url={server.url}")
    assert outcome(*command)[0] == 0
    server.key = "right"
    for step in ("000012", "000006"):  # the run is guided, or has its preferences
        assert outcome(*command)[0] == 0
        shutil.rmtree(folder / "run" / "checkpoints" / step)
    assert outcome(*command)[0] == 0
    assert server.calls == 9


def test_an_embedder_that_cannot_be_loaded_is_told_before_training(folder, mistake):
    pytest.importorskip("sentence_transformers")
    (folder / "empty").mkdir()
    told = mistake(*train_words(*GUIDED, "preferences.embedder=empty"))
    assert (told.where, told.what[:24]) == ("preferences.embedder", "empty cannot be loaded: ")
    assert (
        told.hint == "the folder must have the files of a sentence-transformers model, such as modules.json"
    )


@pytest.fixture
def snapshot(folder):
    (folder / "run" / "preferences").mkdir(parents=True)
    np.save(folder / "run" / "preferences" / LOGITS, logits())
    return folder / "run" / "preferences"


def test_a_local_model_that_there_is_not_is_told_with_its_setting(snapshot, mistake):
    snapshot.joinpath(LOGITS).unlink()
    np.save(snapshot / LOGITS, np.eye(3, 24, dtype=np.float32))
    command = ("topics", "prefer", "--corpus", "corpus", "--output", "run", "--model", "./none")
    assert "set preferences.model to a model folder" in mistake(*command).hint


def test_a_disk_without_room_for_the_replies_is_told_before_any_is_paid(snapshot, serve, monkeypatch):
    server = serve(by_function)
    settings = PreferencesConfig(url=server.url, key_variable="NO_KEY")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=200_000))
    with pytest.raises(DpoError, match=r"the disk has 0\.00 GB left"):
        build_preferences(snapshot, corpus(), settings)
    assert server.calls == 0
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=300_000))
    build_preferences(snapshot, corpus(), settings)
    assert server.calls == 12


def test_logits_that_are_not_those_of_the_snapshot_are_not_used(snapshot):
    config = load_topics_config(None, ["model.topics=4", "dpo.start_epoch=1", "dpo.topic_filter=none"])
    with pytest.raises(DpoError) as error:
        build_guidance(snapshot, corpus(), config, logits() + 1, "")
    assert str(error.value) == (
        f"{snapshot / LOGITS}: is not the snapshot of this run\n"
        "  delete the file: the same command then writes it again"
    )
    assert [path.name for path in snapshot.iterdir()] == [LOGITS]
    (snapshot / LOGITS).unlink()
    build_guidance(snapshot, corpus(), config, logits() + 1, "")
