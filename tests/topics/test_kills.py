"""A run killed with -9 whenever it touches the disk ends, started again, as if nothing had happened."""

import json
import os
import subprocess
import sys

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


def test_a_killed_run_ends_with_the_bytes_of_an_undisturbed_one(tmp_path):
    start = tmp_path / "start"
    write_corpus(start / "corpus")
    rows = ({"k": k, "w_win_indices": [k, k + 3], "w_loose_indices": [k + 9]} for k in range(3))
    (start / "wanted.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = [str(tmp_path / name) for name in ("start", "work", "states")]
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.kills", *arguments, str(MOMENTS), *train_words(*SETTINGS)],
        cwd=ROOT, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    codes = json.loads(done.stdout.splitlines()[-1])
    assert codes.pop("whole") == 0 and len(codes) == MOMENTS
    whole = everything(tmp_path / "states" / "whole" / "run")
    assert len(whole["vocab.txt"].split()) == len(VOCABULARY)
    for moment, exits in codes.items():
        assert exits == [-9, 0], moment
        assert everything(tmp_path / "states" / moment / "again" / "run") == whole, moment


def everything(run):
    """Results, settings and preferences of a run."""
    texts = {name: (run / name).read_text() for name in ("vocab.txt", "config.yaml")}
    artefacts = {path.name: path.read_bytes() for path in (run / "preferences").iterdir()}
    left = [path.name for path in run.rglob(".*") if path.name != ".lock"]
    return results_of(run) | texts | artefacts | {"left": left}
