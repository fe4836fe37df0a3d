"""Vectors of texts, by a sentence-transformers model."""

import sys

import numpy as np
import pytest

from mlx_dpo.data.prompt_clusters import clusters
from mlx_dpo.errors import DpoError
from mlx_dpo.models.embedder import embed

from ..support.mistakes import assert_told

ASKED = [
    "How do I remove red wine stains from a carpet?",
    "Explain how photosynthesis works.",
    "What is the best way to get a red wine stain out of my carpet?",
    "What is the capital of France?",
    "Tell me the capital city of France",
    "What is the capital of Germany?",
    "Can you describe the process of photosynthesis?",
]


def test_a_real_embedder_finds_the_prompts_that_ask_nearly_the_same(minilm):
    vectors = embed(ASKED, minilm)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)
    assert clusters(vectors, 0.8).tolist() == [0, 1, 0, 3, 3, 5, 1]


def test_equal_texts_have_equal_vectors_in_the_order_given(minilm):
    vectors = embed([ASKED[0], ASKED[1], ASKED[0]], minilm)
    assert (vectors[0] == vectors[2]).all() and (vectors[0] != vectors[1]).any()
    assert embed([], minilm).shape == (0, vectors.shape[1])


def test_a_missing_library_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(DpoError) as raised:
        embed(["How?"], "made-up/never-loaded")
    assert_told(raised.value, "pairs.embedder", "is not installed", "pip install 'mlx-dpo[embeddings]'")
