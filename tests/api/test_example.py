"""The example notebook runs from an empty folder."""

import json
import os
import re
import subprocess
import sys

import numpy as np

from ..conftest import ROOT

NOTEBOOK = ROOT / "examples" / "notebook.py"


def test_the_example_scores_trains_with_its_own_loss_and_draws_the_curves(tmp_path):
    done = subprocess.run(
        [sys.executable, NOTEBOOK],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "MPLBACKEND": "Agg"},
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "notebook"
    scores = re.search(r"\[\[.*?\]\]", done.stdout, re.S)[0]
    numbers = np.array(scores.replace("[", "").replace("]", "").split(), float).reshape(6, 2)
    assert (numbers < 0).all()
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["eval/loss"] == 1.0  # the squared hinge of a margin of 0
    assert rows[-1]["eval/loss"] < 0.5
    assert "name: squared_hinge" in (folder / "run" / "config.yaml").read_text()
    margins = re.search(r"margins over the base, nats: \[(.*?)\]", done.stdout, re.S)[1]
    assert min(map(float, margins.split())) > 1
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
