"""Fused weights answer as base and adapter do."""

import json

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten

from mlx_dpo.config import load_config
from mlx_dpo.data.conversation_tokens import prompt_tokens
from mlx_dpo.errors import DpoError
from mlx_dpo.export.fuse import fuse_run
from mlx_dpo.export.fused_model import round_to
from mlx_dpo.jobs.train import train_run
from mlx_dpo.models.adapters import (
    attach,
    load_adapter,
    save_adapter_config,
    save_adapter_weights,
    trainable,
)
from mlx_dpo.models.generate import GenerateConfig, generate_answers
from mlx_dpo.models.load import load_model, load_tokenizer

from ..conftest import half_precision


@pytest.fixture
def trained(tmp_path, models, pair_rows, write_rows, once):
    """A run that has clearly moved: `trained("granite", "lora")` gives (base, run folder)."""

    def make(model, kind):
        folder = tmp_path / "run"
        settings = [
            f"model.path={models(model)}",
            f"data.train={write_rows('train.jsonl', pair_rows[::80])}",
            "data.valid=null",
            f"adapter.type={kind}",
            "optimizer.learning_rate=2e-2",
            "training.accumulation=2",
            "training.epochs=1",
            f"run.output={folder}",
        ]
        once(f"a run that has moved, {model}, {kind}", lambda: train_run(load_config(None, settings)))
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


def test_the_fused_folder_has_the_tokenizer_and_the_template(trained, tmp_path):
    """And the base's config files, where these list the end of turn; test_stops has the others."""
    base, run = trained("granite", "lora")
    fuse_run(str(base), run, tmp_path / "fused")
    one, other = (json.loads((f / "config.json").read_text()) for f in (base, tmp_path / "fused"))
    assert one == other
    assert not (tmp_path / "fused" / "generation_config.json").exists()
    assert load_tokenizer(base).chat_template == load_tokenizer(tmp_path / "fused").chat_template
    assert load_tokenizer(base).eos_token_ids == load_tokenizer(tmp_path / "fused").eos_token_ids


def test_rounding_keeps_the_mean_of_changes_far_below_a_step():
    """1 + 2^-12 lies 1/32 of a bfloat16 step above 1: to nearest it is always 1."""
    value = mx.full((200_000,), 1 + 2.0**-12)
    rounded = np.array(round_to(value, mx.bfloat16, mx.random.key(0)).astype(mx.float32), np.float64)
    assert mx.array_equal(value.astype(mx.bfloat16), mx.ones_like(value).astype(mx.bfloat16))
    assert set(np.unique(rounded).tolist()) == {1.0, 1.0078125}
    # Standard error of the mean: 0.0078125 * sqrt(1/32 * 31/32 / 200000) = 3.0e-6.
    assert rounded.mean() == pytest.approx(1 + 2.0**-12, abs=1.2e-5)


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16, mx.float32])
def test_a_value_on_the_grid_stays(dtype):
    values = (mx.random.normal((4000,), key=mx.random.key(1)) * 0.1).astype(dtype)
    values = mx.concatenate([values, mx.array([0.0, 1.0, -2.0, 0.5], dtype)])
    assert mx.array_equal(round_to(values.astype(mx.float32), dtype, mx.random.key(2)), values)


@pytest.mark.parametrize("kind", ["lora", "dora", "full"])
def test_a_small_update_survives_fusing_into_half_precision(tmp_path, models, pair_rows, write_rows, kind):
    """The default rate and few updates, as in a first trial of a hundred rows."""
    base = half_precision(models("llama"), tmp_path / "half")
    settings = [
        f"model.path={base}",
        f"data.train={write_rows('train.jsonl', pair_rows[::40])}",
        "data.valid=null",
        f"adapter.type={kind}",
        "training.accumulation=2",
        "training.epochs=2",
        f"run.output={tmp_path / 'run'}",
    ]
    train_run(load_config(None, settings))
    fuse_run(str(base), tmp_path / "run", tmp_path / "fused")

    exact, _ = load_model(base)
    before = linear_weights(exact)
    load_adapter(exact, tmp_path / "run")
    if kind != "full":
        for layer in exact.modules():
            if "lora_a" in layer:
                layer.linear.set_dtype(mx.float32)
        modules = [(n, m.fuse()) for n, m in exact.named_modules() if "lora_a" in m]
        exact.update_modules(tree_unflatten(modules))
    wanted = linear_weights(exact) - before
    got = linear_weights(load_model(tmp_path / "fused")[0]) - before
    to_nearest = (before + wanted).astype(mx.bfloat16).astype(mx.float32) - before
    kept = ((got * wanted).sum() / (wanted * wanted).sum()).item()
    assert ((to_nearest * wanted).sum() / (wanted * wanted).sum()).item() < 0.5
    assert kept == pytest.approx(1, abs=0.1)


def linear_weights(model):
    """All weights of linear layers in the blocks, one after another, float32."""
    weights = dict(tree_flatten(model.layers))
    names = sorted(n for n in weights if n.endswith("proj.weight"))
    return mx.concatenate([weights[n].astype(mx.float32).flatten() for n in names])


def test_an_adapter_that_never_moved_fuses_to_the_base_itself(tmp_path, models):
    base = half_precision(models("granite"), tmp_path / "half")
    model, _ = load_model(base)
    config = load_config(None).adapter
    attach(model, config)
    (tmp_path / "run").mkdir()
    save_adapter_config(model, config, str(base), tmp_path / "run")
    save_adapter_weights(model, tmp_path / "run")
    fuse_run(str(base), tmp_path / "run", tmp_path / "fused")
    one, other = (dict(tree_flatten(load_model(f)[0].parameters())) for f in (base, tmp_path / "fused"))
    assert all(mx.array_equal(one[n], other[n]) for n in one)


def test_an_adapter_that_is_not_finite_is_not_fused(trained, tmp_path):
    base, run = trained("llama", "lora")
    weights = mx.load(str(run / "adapters.safetensors"))
    name = next(n for n in weights if n.endswith("lora_b"))
    weights[name] = weights[name] * float("nan")
    mx.save_safetensors(str(run / "adapters.safetensors"), weights)
    with pytest.raises(DpoError, match="numbers that are not finite"):
        fuse_run(str(base), run, tmp_path / "fused")
    assert not (tmp_path / "fused").exists()


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_an_adapter_saved_in_half_precision_trains_on_in_float32_and_is_fused(trained, tmp_path, kind):
    """As other trainers save theirs."""
    base, run = trained("llama", kind)
    path = run / "adapters.safetensors"
    halves = {n: w.astype(mx.bfloat16) for n, w in mx.load(str(path)).items()}
    mx.save_safetensors(str(path), halves, metadata={"format": "mlx"})
    model, _ = load_model(base)
    load_adapter(model, run)
    assert {w.dtype for w in trainable(model).values()} == {mx.float32}
    assert all(mx.array_equal(w, halves[n].astype(mx.float32)) for n, w in trainable(model).items())
    fused = load_model(fuse_run(str(base), run, tmp_path / "fused"))[0]
    np.testing.assert_allclose(logits_of(fused), logits_of(model), atol=1e-4)


@pytest.mark.parametrize("mode", ["mxfp4", "nvfp4", "mxfp8"])
def test_a_base_with_scales_of_8_bits_is_fused_to_bfloat16(tmp_path, models, mode):
    """Its scales are whole numbers: what is written must not take their type."""
    from mlx_lm import convert

    base = tmp_path / "base"
    convert(str(models("llama")), str(base), quantize=True, q_mode=mode)
    model, _ = load_model(base)
    config = load_config(None).adapter
    attach(model, config)
    moved = [(n, 0.05 * mx.random.normal(w.shape)) for n, w in trainable(model).items() if "lora_b" in n]
    model.load_weights(moved, strict=False)
    (tmp_path / "run").mkdir()
    save_adapter_config(model, config, str(base), tmp_path / "run")
    save_adapter_weights(model, tmp_path / "run")
    fused = load_model(fuse_run(str(base), tmp_path / "run", tmp_path / "fused"))[0]
    weights = dict(tree_flatten(fused.layers))
    assert {w.dtype for n, w in weights.items() if "proj" in n} == {mx.bfloat16}
    wanted, got = logits_of(model), logits_of(fused)
    assert np.linalg.norm(got - wanted) < 0.02 * np.linalg.norm(wanted)
    assert np.linalg.norm(logits_of(load_model(base)[0]) - wanted) > 0.2 * np.linalg.norm(wanted)
