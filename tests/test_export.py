"""Fused weights answer as base and adapter do."""

import json

import mlx.core as mx
import numpy as np
import pytest

from mlx_dpo.config import load_config
from mlx_dpo.data.templates import prompt_tokens
from mlx_dpo.export.fuse import fuse_run
from mlx_dpo.models.adapters import load_adapter
from mlx_dpo.models.generate import GenerateConfig, generate_answers
from mlx_dpo.models.load import load_model, load_tokenizer
from mlx_dpo.training.run import train_run


@pytest.fixture
def trained(tmp_path, models, pair_rows, write_rows):
    """A run that has clearly moved: `trained("granite", "lora")` gives (base, run folder)."""

    def make(model, kind):
        folder = tmp_path / "run"
        settings = [
            f"model.path={models(model)}",
            f"data.train={write_rows('train.jsonl', pair_rows[::40])}",
            "data.valid=null",
            f"adapter.type={kind}",
            "optimizer.learning_rate=2e-2",
            "training.accumulation=2",
            f"run.output={folder}",
        ]
        train_run(load_config(None, settings))
        return models(model), folder

    return make


def logits_of(model):
    return np.array(model(mx.array([[5, 9, 300, 41, 7, 19, 22]])).astype(mx.float32))


@pytest.mark.parametrize("model", ["granite", "llama", "qwen3"])
@pytest.mark.parametrize("kind", ["lora", "dora", "full"])
def test_fused_logits_equal_base_and_adapter(trained, tmp_path, model, kind):
    from mlx_lm import load

    base, run = trained(model, kind)
    fuse_run(str(base), run, tmp_path / "fused")
    adapted, _ = load_model(base)
    before = logits_of(adapted)
    load_adapter(adapted, run)
    expected = logits_of(adapted)
    fused, tokenizer = load(str(tmp_path / "fused"))  # as a user of mlx_lm would
    np.testing.assert_allclose(logits_of(fused), expected, atol=2e-5 * np.abs(expected).max())
    assert np.abs(expected - before).max() > 1e-2 * np.abs(expected).max()
    assert not any("lora_a" in m for m in fused.modules())

    own = load_tokenizer(base)
    prompt = [{"role": "user", "content": "How do I clean a copper kettle?"}]
    assert prompt_tokens(tokenizer, prompt) == prompt_tokens(own, prompt)
    greedy = GenerateConfig(max_tokens=24, temperature=0.0)
    answers = [
        next(generate_answers(m, own, [prompt_tokens(own, prompt)], greedy)).text for m in (fused, adapted)
    ]
    assert answers[0] == answers[1]


def test_fusing_into_a_4_bit_base_loses_nothing_to_rounding(trained, tmp_path, capsys):
    """Written in plain precision; rounded to 4 bits again, most of the change would be gone."""
    base, run = trained("granite-4bit", "lora")
    fuse_run(str(base), run, tmp_path / "fused")
    adapted, _ = load_model(base)
    load_adapter(adapted, run)
    expected = logits_of(adapted)
    fused, config = load_model(tmp_path / "fused")
    np.testing.assert_allclose(logits_of(fused), expected, atol=1e-3 * np.abs(expected).max())
    assert "quantization" not in config
    assert not any(hasattr(m, "bits") for m in fused.modules())


def test_the_fused_folder_has_the_tokenizer_the_template_and_the_end_tokens(trained, tmp_path):
    base, run = trained("granite", "lora")
    fuse_run(str(base), run, tmp_path / "fused")
    one, other = (json.loads((f / "config.json").read_text()) for f in (base, tmp_path / "fused"))
    assert one == other
    assert load_tokenizer(base).chat_template == load_tokenizer(tmp_path / "fused").chat_template
    assert load_tokenizer(base).eos_token_ids == load_tokenizer(tmp_path / "fused").eos_token_ids
