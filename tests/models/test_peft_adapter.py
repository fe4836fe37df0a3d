"""Adapters that PEFT has trained: mlx_lm computes the same with them, or they are refused with the reason."""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest

from mlx_dpo.errors import DpoError
from mlx_dpo.models.adapters import read_adapter_config
from mlx_dpo.models.fingerprint import model_and_adapter_hashes
from mlx_dpo.models.load import load_model
from mlx_dpo.models.peft_adapter import check_adapter, mlx_adapter

from ..golden.golden_peft import PEFT_MADE, write_adapter
from ..support.peft_bases import GOLDEN, TRAINED, base_folder, log_probs


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    return lambda name: base_folder(folder, name)


@pytest.fixture
def copied(tmp_path):
    """A copy of an adapter that PEFT has trained, with other settings and tensors."""

    def make(name="llama-rslora", change=lambda tensors: None, **settings):
        folder = shutil.copytree(TRAINED / name, tmp_path / "peft")
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))
        tensors = dict(mx.load(str(folder / "adapter_model.safetensors")))
        change(tensors)
        mx.eval(tensors)
        mx.save_safetensors(str(folder / "adapter_model.safetensors"), tensors)
        return folder

    return make


@pytest.mark.parametrize("name", PEFT_MADE)
def test_mlx_computes_what_peft_computes_with_its_adapter(bases, name):
    base = bases(PEFT_MADE[name][0])
    ours = log_probs(base, mlx_adapter(TRAINED / name, base))
    np.testing.assert_allclose(ours, GOLDEN["trained"][name], atol=1e-4)
    assert np.abs(ours - log_probs(base)).max() > 0.25


def test_lower_ranks_are_filled_and_other_scales_go_into_b(bases):
    """down_proj has rank 5, the others 2 or 3; most layers have scale 3 / 2."""
    own = mlx_adapter(TRAINED / "llama-patterns", bases("llama"))
    config = read_adapter_config(own)
    assert (config.rank, config.scale, config.layers) == (5, 1.5, -1)
    before = mx.load(str(TRAINED / "llama-patterns" / "adapter_model.safetensors"))
    after = mx.load(str(own / "adapters.safetensors"))
    gate = before["base_model.model.model.layers.0.mlp.gate_proj.lora_B.weight"].T
    assert mx.array_equal(after["model.layers.0.mlp.gate_proj.lora_b"][:2], gate * (3.5 / 1.5))
    assert not after["model.layers.0.mlp.gate_proj.lora_b"][2:].any()
    query = before["base_model.model.model.layers.1.self_attn.k_proj.lora_B.weight"].T
    assert mx.array_equal(after["model.layers.1.self_attn.k_proj.lora_b"][:2], query)


def test_a_layer_left_out_in_later_blocks_gets_zeros_and_earlier_blocks_none(bases):
    """Of three blocks only the second one is adapted."""
    own = mlx_adapter(TRAINED / "llama-some-layers", bases("llama"))
    weights = mx.load(str(own / "adapters.safetensors"))
    assert read_adapter_config(own).layers == 2
    moved = {name.split(".")[2] for name, w in weights.items() if (w != 0).any()}
    assert moved == {"1"} and {name.split(".")[2] for name in weights} == {"1", "2"}


def test_rank_and_scale_of_rslora_are_as_in_peft(bases):
    assert read_adapter_config(mlx_adapter(TRAINED / "llama-rslora", bases("llama"))).scale == 6 / 2


def test_an_adapter_of_mlx_is_used_where_it_is(bases, tmp_path):
    own = write_adapter(tmp_path / "run", "llama", "lora")
    assert mlx_adapter(own, bases("llama")) == own


def test_the_adapter_of_another_base_is_refused(bases):
    with pytest.raises(DpoError, match=r"has the shape|not of a linear layer"):
        mlx_adapter(TRAINED / "llama-rslora", bases("granite"))
    with pytest.raises(DpoError, match="not of a linear layer") as stop:
        mlx_adapter(TRAINED / "granite-lora", bases("llama"))
    assert "shared_mlp.input_linear" in stop.value.what


def test_new_weights_under_the_same_config_are_another_adapter(bases, copied, tmp_path):
    """A run's cached reference depends on them."""
    folder = copied()
    before = model_and_adapter_hashes(bases("llama"), folder), mlx_adapter(folder, bases("llama"))
    tensors = {n: w + 1 for n, w in mx.load(str(folder / "adapter_model.safetensors")).items()}
    mx.eval(tensors)
    mx.save_safetensors(str(folder / "adapter_model.safetensors"), tensors)
    assert model_and_adapter_hashes(bases("llama"), folder) != before[0]
    assert mlx_adapter(folder, bases("llama")) != before[1]


REFUSED = {
    "peft_type": ("IA3", "only LORA"),
    "modules_to_save": (["lm_head"], "cannot replace whole weights"),
    "target_parameters": (["experts.down_proj"], "experts"),
    "trainable_token_indices": ([1, 2], "single embeddings"),
    "bias": ("all", "do not change biases"),
    "lora_bias": (True, "have no bias"),
    "alora_invocation_tokens": ([5], "act on all tokens"),
    "layer_replication": ([[0, 3], [1, 3]], "cannot repeat blocks"),
    "a_setting_of_next_year": ({"on": True}, "it is not known how this changes"),
    "use_qalora": (True, "it is not known how this changes"),
    "init_lora_weights": ("pissa", "changes the weights of its base model"),
    "r": ("4", "not a number above 0"),
    "lora_alpha": (None, "not a number above 0"),
    "rank_pattern": ([1], "not an object of numbers above 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_mlx_cannot_compute_is_refused_before_the_model_is_looked_at(copied, name):
    value, reason = REFUSED[name]
    with pytest.raises(DpoError, match=reason) as stop:
        check_adapter(copied(**{name: value}))
    assert stop.value.where.endswith("adapter_config.json") and stop.value.hint


_A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
_HEAD = "base_model.model.lm_head.lora_A.weight"
_EMBEDDING = "base_model.model.model.embed_tokens.lora_embedding_A"
DAMAGED = {
    "a missing A": (lambda t: t.pop(_A), "has no lora_A of block 0, self_attn.q_proj"),
    "an adapter of the head": (lambda t: t.update({_HEAD: t[_A]}), "lm_head.lora_A"),
    "an adapter of the embedding": (lambda t: t.update({_EMBEDDING: t[_A]}), "lora_embedding_A"),
    "a resized embedding": (
        lambda t: t.update({"base_model.model.model.embed_tokens.weight": t[_A]}),
        "embed_tokens.weight",
    ),
    "a transposed A": (lambda t: t.update({_A: t[_A].T}), "rank 32, but|has the shape"),
    "a fourth block": (lambda t: t.update({_A.replace("0", "3"): t[_A]}), "layers.3.self_attn"),
    "no tensors": (lambda t: [t.clear(), t.update(x=mx.zeros(1))], "x"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_tensors_that_cannot_be_of_this_adapter_are_named(copied, bases, name):
    change, told = DAMAGED[name]
    with pytest.raises(DpoError, match=told) as stop:
        mlx_adapter(copied(change=change), bases("llama"))
    assert stop.value.hint


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"r": 8}, "has rank 4, but"),
        ({"use_dora": True}, "has no magnitude"),
        ({"rank_pattern": {"(": 4}}, "regular"),
    ],
)
def test_a_config_that_contradicts_the_tensors_is_refused(copied, bases, settings, told):
    with pytest.raises(DpoError, match=told):
        mlx_adapter(copied(**settings), bases("llama"))


def test_dora_in_some_blocks_only_is_refused(copied, bases):
    def without_last(tensors):
        for name in [n for n in tensors if "layers.2.mlp.up_proj" in n]:
            del tensors[name]

    with pytest.raises(DpoError, match=r"has no DoRA for mlp.up_proj of block 2"):
        mlx_adapter(copied("qwen3-dora", without_last), bases("qwen3"))


def test_weights_that_may_contain_code_are_not_opened(copied):
    folder = copied()
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(DpoError, match="never opened"):
        check_adapter(folder)


def test_a_granite_config_with_the_words_of_transformers_5_is_the_same_model(bases, tmp_path):
    base = shutil.copytree(bases("granite"), tmp_path / "renamed")
    config = json.loads((base / "config.json").read_text())
    words = {"mamba": "linear_attention", "attention": "full_attention"}
    config["layer_types"] = [words[kind] for kind in config["layer_types"]]
    (base / "config.json").write_text(json.dumps(config))
    assert np.array_equal(log_probs(base), log_probs(bases("granite")))
    assert load_model(base)[1]["layer_types"] == ["mamba", "attention", "mamba"]
