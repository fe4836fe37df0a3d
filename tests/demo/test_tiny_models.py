"""The small models: real architectures, the same from the same seed."""

import hashlib
import json
import os
import subprocess
import sys

import mlx.core as mx
import numpy as np
import pytest

from mlx_dpo.data.conversation_tokens import end_of_turn, prompt_tokens
from mlx_dpo.demo.tiny_models import make_model
from mlx_dpo.models.load import load_model, load_tokenizer

TEXTS = [f"How do I clean copper kettle number {i}? Rub it with lemon." for i in range(200)]
ARCHITECTURES = ["granite", "llama", "qwen3"]
MAKE = "import sys, mlx_dpo; from pathlib import Path; from mlx_dpo.demo.tiny_models import make_model; "


def digest(folder):
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.iterdir()}


@pytest.fixture(scope="module")
def made_elsewhere(tmp_path_factory):
    """A folder with all three, made by another process."""
    folder = tmp_path_factory.mktemp("elsewhere")
    code = f"{MAKE} [make_model(Path(sys.argv[1]) / a, a, {TEXTS!r}, vocab=300) for a in {ARCHITECTURES}]"
    subprocess.run(
        [sys.executable, "-c", code, str(folder)], check=True, env={**os.environ, "PYTHONHASHSEED": "7"}
    )
    return folder


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_same_seed_gives_the_same_files_in_another_process(tmp_path, architecture, made_elsewhere):
    make_model(tmp_path / "here", architecture, TEXTS, vocab=300)
    assert digest(tmp_path / "here") == digest(made_elsewhere / architecture)
    make_model(tmp_path / "other", architecture, TEXTS, vocab=300, seed=1)
    different = digest(tmp_path / "other")
    assert different["model.safetensors"] != digest(tmp_path / "here")["model.safetensors"]
    assert different["tokenizer.json"] == digest(tmp_path / "here")["tokenizer.json"]


def test_the_hybrid_has_what_makes_granite_hard(models):
    config = json.loads((models("granite") / "config.json").read_text())
    assert config["layer_types"] == ["mamba", "attention", "mamba"]
    assert config["tie_word_embeddings"] and config["logits_scaling"] != 1
    assert config["position_embedding_type"] == "nope"
    model, _ = load_model(models("granite"))
    tokens = mx.array([[5, 9, 3, 8]])
    scaled = model.model.embed_tokens.as_linear(model.model(tokens))
    np.testing.assert_allclose(
        np.array(model(tokens)) * config["logits_scaling"], np.array(scaled), rtol=1e-6
    )


def test_the_4_bit_model_is_quantised_in_every_linear_layer(models):
    model, config = load_model(models("granite-4bit"))
    assert config["quantization"]["bits"] == 4
    linear = [m for m in model.modules() if type(m).__name__ in ("Linear", "Embedding")]
    assert not linear


def test_granite_turns_are_granites_own(models):
    tokenizer = load_tokenizer(models("granite"))
    text = tokenizer.decode(prompt_tokens(tokenizer, [{"role": "user", "content": "Hello"}]))
    assert text == (
        "<|start_of_role|>user<|end_of_role|>Hello<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>"
    )
    assert tokenizer.decode([end_of_turn(tokenizer)]) == "<|end_of_text|>"
