"""A run killed with -9 whenever it touches the disk ends, started again, as if nothing had happened."""

import json
import os
import subprocess
import sys

import pytest

from ..conftest import ROOT
from ..support.topic_corpus import VOCABULARY, results_of, train_words, write_corpus

MOMENTS = 20 if os.environ.get("MLX_DPO_EVERY_COMBINATION") else 5
SETTINGS = (
    "dpo.start_epoch=2",
    "training.epochs=4",
    "dpo.topic_filter=none",
    "preferences.file=wanted.jsonl",
    "training.save_minutes=0.000001",
)


@pytest.fixture
def start(tmp_path):
    """A folder with a corpus and preferences."""
    write_corpus(tmp_path / "start" / "corpus")
    rows = ({"k": k, "w_win_indices": [k, k + 3], "w_loose_indices": [k + 9]} for k in range(3))
    (tmp_path / "start" / "wanted.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "start"


def test_a_killed_run_ends_with_the_bytes_of_an_undisturbed_one(start):
    whole = killed(start, train_words(*SETTINGS))
    assert len(whole["vocab.txt"].split()) == len(VOCABULARY)


def test_so_does_a_killed_run_that_begins_with_a_snapshot(start, outcome, monkeypatch):
    monkeypatch.chdir(start)
    assert outcome(*train_words(*SETTINGS, output="earlier"))[0] == 0
    whole = killed(start, [*train_words(*SETTINGS, "dpo.weight=3"), "--snapshot", "earlier"])
    assert len(whole["rows"]) == 4


def killed(start, command):
    """Kill a command at some moments and give it again; what the undisturbed run says, as do all of them."""
    states = start.parent / "states"
    arguments = [str(path) for path in (start, start.parent / "work", states)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.kills", *arguments, str(MOMENTS), *command],
        cwd=ROOT, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    codes = json.loads(done.stdout.splitlines()[-1])
    assert codes.pop("whole") == 0 and len(codes) == MOMENTS
    whole = everything(states / "whole" / "run")
    for moment, exits in codes.items():
        assert exits == [-9, 0], moment
        assert everything(states / moment / "again" / "run") == whole, moment
    return whole


def everything(run):
    """Results, settings and preferences of a run."""
    texts = {name: (run / name).read_text() for name in ("vocab.txt", "config.yaml")}
    artefacts = {path.name: path.read_bytes() for path in (run / "preferences").iterdir()}
    left = [path.name for path in run.rglob(".*") if path.name != ".lock"]
    return results_of(run) | texts | artefacts | {"left": left}
