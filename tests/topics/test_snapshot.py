"""A run that begins with the snapshot of an earlier run is the whole run with its settings."""

import json
import os
import shutil

import pytest

from mlx_dpo.training.checkpoint_folder import checkpoint_of, read_arrays, save_checkpoint

from ..support.mistakes import cases, flip
from ..support.openai_server import Says
from ..support.topic_corpus import results_of, train_words, write_corpus
from ..support.topic_server import function_of, listed

GUIDED = ("dpo.start_epoch=2", "training.epochs=4", "dpo.topic_filter=none")
OTHERS = (
    "dpo.weight=3",
    "dpo.alpha=0.5",
    "dpo.anchor_weight=2",
    "dpo.topic_filter=llm_score",
    "training.epochs=5",
    "training.patience=9",
)
"""Every setting that may be another one after the snapshot."""
UNDO = (
    "undo the change, or leave out --snapshot to train from the start; only dpo.weight, dpo.alpha, "
    "dpo.topic_filter, dpo.anchor_weight, training.epochs, training.patience may differ"
)
UNFINISHED = "continue that run until its preferences are built, or leave out --snapshot"


def answer(body):
    """An LLM that finds the first topic coherent, and the first two of the top words better than the last."""
    function, k = function_of(body), listed(body, "Topic")
    if function == "build_preferences":
        top = list(listed(body, "List A").values())
        own = {"w_win_indices": top[:2], "w_loose_indices": top[-2:]}
    else:
        own = (
            {"llm_score": 1 + 2 * (k == 0)} if function == "score_topic" else {"main_meaning": "bread things"}
        )
    return Says(None, call=json.dumps({"k": k, **own}))


def files_of(folder):
    """Settings and preferences, except the replies, which are in the order in which they came."""
    paths = [folder / "config.yaml", *(folder / "preferences").glob("*.*")]
    return {path.name: path.read_bytes() for path in paths if path.name != "replies.jsonl"}


def continued(*settings, output="new", snapshot="run"):
    return [*train_words(*GUIDED, *settings, output=output), "--snapshot", snapshot]


@pytest.fixture
def run(once, tmp_path, outcome):
    """The folder of a finished run with preferences by vectors of the words."""

    def train():
        write_corpus(tmp_path / "corpus")
        assert outcome(*train_words(*GUIDED))[0] == 0

    once("a run with a snapshot", train)
    return tmp_path / "run"


@pytest.fixture
def go(outcome):
    """Run a command that succeeds; what it says."""

    def succeed(*command):
        code, _, errors = outcome(*command)
        assert code == 0, errors
        return errors

    return succeed


def test_it_ends_with_the_bytes_of_a_whole_run_and_nothing_is_asked_again(tmp_path, go, serve):
    write_corpus(tmp_path / "corpus")
    server = serve(answer)
    llm = f"preferences.url={server.url}"
    go(*train_words(*GUIDED, llm))
    asked = server.calls
    said = go(*continued(*OTHERS, llm))
    assert "beginning with the snapshot of run and its preferences" in said
    assert "epoch 2/5" not in said and "epoch 3/5" in said
    assert server.calls == asked > 0
    go(*train_words(*GUIDED, *OTHERS, llm, output="whole"))
    new, whole = tmp_path / "new", tmp_path / "whole"
    assert results_of(new) == results_of(whole)
    assert files_of(new) | {"config.yaml": b""} == files_of(whole) | {"config.yaml": b""}
    assert results_of(new)["rows"][-1] != results_of(tmp_path / "run")["rows"][-1]
    assert (new / "preferences" / "dpo_selected_topics.jsonl").read_text() == '{"k": 1}\n{"k": 2}\n'


def test_the_run_with_the_snapshot_is_not_changed(run, go):
    def content():
        return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    before = content()
    go(*continued("dpo.weight=3"))
    shutil.rmtree(run.parent / "new")
    assert content() == before


def test_the_same_command_again_and_without_the_snapshot_continue_it(run, go):
    command = continued("dpo.weight=3")
    go(*command)
    once = results_of(run.parent / "new")
    shutil.rmtree(run.parent / "new" / "checkpoints" / "000012")  # as if killed after the snapshot
    (run.parent / "new" / "beta.npy").unlink()
    assert "beginning" not in go(*command)
    assert results_of(run.parent / "new") == once
    shutil.rmtree(run)
    assert "beginning" not in go(*train_words(*GUIDED, "dpo.weight=3", output="new"))
    assert results_of(run.parent / "new") == once


def test_a_snapshot_of_a_run_that_was_stopped_when_preferences_began_is_as_good(run, go):
    """The checkpoint of that moment then says which preferences the run used."""
    own = run / "checkpoints" / "000006"
    stopped = ("training.save_minutes=0.000001", "training.keep_checkpoints=9")
    go(*continued("dpo.weight=3", *stopped))
    whole = results_of(run.parent / "new")
    guided = json.loads((run / "checkpoints" / "000012" / "state.json").read_text())["facts"]["state"][
        "guided"
    ]
    found = checkpoint_of(run, 6)
    arrays, weights = read_arrays(found), (own / "model.safetensors").read_bytes()
    facts = {**found.facts, "state": {**found.facts["state"], "guided": guided, "best": None}}
    save_checkpoint(run, 6, arrays, facts, lambda beside: (beside / "model.safetensors").write_bytes(weights))
    go(*continued("dpo.weight=3", output="again"))
    assert results_of(run.parent / "again") == whole


def test_overwrite_replaces_another_run(run, go, refused_at):
    go(*continued("dpo.weight=3"))
    once = results_of(run.parent / "new")
    go(*continued("dpo.weight=4", "training.epochs=3"), "--overwrite")
    assert results_of(run.parent / "new") != once
    go(*continued("dpo.weight=3"), "--overwrite")
    assert results_of(run.parent / "new") == once


def other_corpus(run):
    write_corpus(run.parent / "corpus", seed=5)


def preferences_missing(run):
    (run / "preferences" / "preferences.jsonl").unlink()


def damaged_snapshot(run):
    flip(run / "checkpoints" / "000006" / "model.safetensors", 500)


def short_metrics(run):
    os.truncate(run / "metrics.jsonl", 7)


def nothing(run):
    pass


REFUSED = {
    "a run of another corpus": (
        other_corpus,
        continued(),
        "run: the run in this folder was started differently: the corpus (corpus.folder) changed",
        UNDO,
    ),
    "settings that count before the snapshot": (
        nothing,
        continued("model.dropout=0.5", "dpo.weight=3", "training.seed=3"),
        "run: the run in this folder was started differently: model.dropout is 0.5, was 0.0, "
        "training.seed is 3, was 0",
        UNDO,
    ),
    "another start": (
        nothing,
        continued("dpo.start_epoch=3"),
        "run: the run in this folder was started differently: dpo.start_epoch is 3, was 2",
        UNDO,
    ),
    "preferences of another kind": (
        nothing,
        continued("preferences.seed=7"),
        "run/preferences: contains preferences made with another seed (was 0)",
        UNDO,
    ),
    "no preferences asked for": (
        nothing,
        continued("dpo.start_epoch=null"),
        "dpo.start_epoch: is null, so --snapshot has no effect",
        "set it as in the run with the snapshot, or leave out --snapshot",
    ),
    "no run": (
        nothing,
        continued(snapshot="corpus"),
        "corpus: contains no run of a topic model",
        "give --snapshot the folder that mlx-dpo topics train wrote",
    ),
    "a run that has not built its preferences": (
        preferences_missing,
        continued(),
        "run: has no snapshot with preferences: preferences/preferences.jsonl missing or damaged",
        UNFINISHED,
    ),
    "a snapshot that is damaged": (
        damaged_snapshot,
        continued(),
        "run: has no snapshot with preferences: checkpoints/000006 missing or damaged",
        UNFINISHED,
    ),
    "metrics that break off": (
        short_metrics,
        continued(),
        "run/metrics.jsonl: has 7 bytes, but had {size} at the snapshot",
        "restore the file, or leave out --snapshot to train from the start",
    ),
    "the folder of the snapshot": (
        nothing,
        continued(output="run"),
        "run: is or contains the run with the snapshot",
        "choose another folder with --output",
    ),
    "a folder around the snapshot": (
        lambda run: shutil.copytree(run, run.parent / "outer" / "run"),
        continued(output="outer", snapshot="outer/run"),
        "outer: is or contains the run with the snapshot",
        "choose another folder with --output",
    ),
}


@cases(REFUSED)
def test_what_cannot_be_continued_is_refused_and_nothing_is_written(case, run, mistake):
    damage, command, told, remedy = case
    checkpoint = json.loads((run / "checkpoints" / "000006" / "state.json").read_text())
    size = f"{checkpoint['facts']['sizes']['metrics.jsonl']:,}"
    damage(run)
    assert str(mistake(*command)) == f"{told.format(size=size)}\n  {remedy}"
    assert not (run.parent / "new").exists()


def test_a_folder_with_another_run_is_refused(run, go, mistake):
    go(*continued("dpo.weight=3"))
    assert str(mistake(*continued("dpo.weight=4"))) == (
        "new: the run in this folder was started differently: dpo.weight is 4.0, was 3.0\n"
        "  undo the change to continue, or restart with --overwrite"
    )
    shutil.rmtree(run.parent / "new" / "checkpoints" / "000006")
    assert str(mistake(*continued("dpo.weight=3"))) == (
        "new: contains a run that did not begin with this snapshot\n"
        "  choose another folder with --output, or replace the run with --overwrite"
    )
