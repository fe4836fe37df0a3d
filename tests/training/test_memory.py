"""Training needs one set of weights: the reference is no second copy."""

import json
import subprocess
import sys

import pytest

from ..conftest import ROOT


@pytest.fixture(scope="module")
def measured():
    script = ROOT / "benchmarks" / "bench_memory.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_training_holds_one_copy_of_the_weights(measured):
    mb = measured
    # What training adds to a forward pass (adapter, gradient, optimiser, activations) is less than one copy.
    assert mb["training_lora_peak_mb"] - mb["forward_only_peak_mb"] < 0.75 * mb["weights_mb"]
    assert mb["training_dora_peak_mb"] - mb["forward_only_peak_mb"] < 0.95 * mb["weights_mb"]
    assert mb["forward_only_peak_mb"] > mb["weights_mb"]


def test_fusing_sums_one_layer_at_a_time(measured):
    assert measured["fusing_peak_mb"] < 1.5 * measured["weights_mb"]
