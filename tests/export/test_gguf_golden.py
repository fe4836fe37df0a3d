"""Exports against numbers from transformers on torch and from llama.cpp, stored by golden_exports.py."""

import json

import mlx.core as mx
import numpy as np
import pytest

from mlx_dpo.demo.family_models import CONFIGS, WITHOUT_GGUF
from mlx_dpo.export.predictions import (
    EXACT,
    EXACT_GEMMA,
    has_step_limit,
    llama_cpp_gelu,
    log_softmax,
    mlx_predictions,
    step_limit_note,
)

from ..conftest import ROOT
from ..support.export_content import ROWS, content_of, figures

GOLDEN = json.loads((ROOT / "tests" / "golden" / "exports.json").read_text())
FAMILIES = GOLDEN["families"]
IN_GGUF = [family for family in CONFIGS if family not in WITHOUT_GGUF]


def test_every_family_is_stored():
    assert {*FAMILIES} == {*CONFIGS}


@pytest.mark.parametrize("family", CONFIGS)
def test_torch_and_llama_cpp_predict_what_mlx_predicts(sources, family):
    logps = mlx_predictions(sources(family).fused.model, ROWS, steps=0).logps[:, : GOLDEN["entries"]]
    np.testing.assert_allclose(logps, FAMILIES[family]["torch"], atol=EXACT, rtol=0)
    if family not in (*WITHOUT_GGUF, "gemma3"):
        np.testing.assert_allclose(logps, FAMILIES[family]["llama.cpp"], atol=EXACT, rtol=0)


def test_llama_cpps_gemma_differs_by_its_half_precision_table(sources):
    """Without that table by 0.0089, with it by 0.0015: numbers between two entries fall to either of them."""
    model, stored = sources("gemma3").fused.model, np.array(FAMILIES["gemma3"]["llama.cpp"])

    def difference():
        logps = mlx_predictions(model, ROWS, steps=0).logps[:, : GOLDEN["entries"]]
        return np.abs(logps - stored).max()

    plain = difference()
    with llama_cpp_gelu():
        looked_up = difference()
    assert looked_up < EXACT_GEMMA / 2 < 3 * looked_up < plain


def test_only_without_mlx_lms_limit_on_time_steps_are_the_predictions_those_of_torch(sources):
    model = sources("hybrid-steps").fused.model
    tokens = mx.array([ROWS[2]])
    with_limit = log_softmax(np.array(model(tokens)[0, -1]))[: GOLDEN["entries"]]
    torch = np.array(FAMILIES["hybrid-steps"]["torch"][2])
    assert np.abs(with_limit - torch).max() > 5 * EXACT
    assert "log-probabilities differ by at most" in step_limit_note(model, ROWS)
    assert has_step_limit(model) and not has_step_limit(sources("llama").fused.model)


@pytest.mark.parametrize("family", IN_GGUF)
def test_the_content_is_that_which_llama_cpp_has_computed_with(sources, family):
    """Every field; of every tensor the shape, and a sum that a swap of two rows or axes changes."""
    now = json.loads(json.dumps(figures(content_of(sources(family)))))
    stored = FAMILIES[family]
    assert (now["architecture"], now["fields"]) == (stored["architecture"], stored["fields"])
    assert {*now["tensors"]} == {*stored["tensors"]}
    for name, (shape, mark) in now["tensors"].items():
        assert shape == stored["tensors"][name][0], name
        assert mark == pytest.approx(stored["tensors"][name][1], abs=2e-3), name
