"""Settings of a model or a tokenizer with wrong values are refused by name, with the way out."""

import json
import shutil

import pytest

from mlx_dpo.errors import DpoError
from mlx_dpo.export.fuse import fuse_run
from mlx_dpo.models.config_files import read_model_config
from mlx_dpo.models.load import find_model, load_model, load_tokenizer

from ..support.mistakes import (
    cases,
    edit,
    refused,
)

# ---- config.json, generation_config.json


CONFIGS = {
    "a helper of mlx_lm for a type": (
        {"model_type": "cache"},
        "the architecture 'cache'",
    ),
    "a number for a type": ({"model_type": 3}, "the architecture 3"),
    "a list for a type": ({"model_type": ["llama"]}, "the architecture ['llama']"),
    "no type": ({"model_type": ...}, "the architecture None"),
    "code of its own": (
        {"model_file": "model.py"},
        "'model.py' (model_file)",
    ),
    "text for a size": ({"hidden_size": "64"}, "hidden_size is '64', not a whole number"),
    "a fraction for a size": ({"vocab_size": 512.5}, "vocab_size is 512.5, not a whole number"),
    "a billion layers": ({"num_hidden_layers": 10**9}, "num_hidden_layers cannot be 1000000000"),
    "a size below 0": ({"intermediate_size": -1}, "intermediate_size cannot be -1"),
    "text for an end token": (
        {"eos_token_id": "</s>"},
        "eos_token_id is '</s>', not a token id or a list of them",
    ),
    "an end token below 0": (
        {"eos_token_id": [-1]},
        "eos_token_id is [-1], not a token id or a list of them",
    ),
    "a text config that is none": ({"text_config": 3}, "text_config is 3, not an object"),
}


@cases(CONFIGS)
def test_a_config_with_wrong_values_is_refused_by_its_name(case, model):
    changes, what = case
    edit(model / "config.json", **changes)
    refused(find_model, "model", "model/config.json", what)


@pytest.mark.parametrize(
    "changes",
    [{"num_attention_heads": 0}, {"rms_norm_eps": "small"}, {"rope_scaling": 3}, {"quantization": []}],
    ids=lambda changes: next(iter(changes)),
)
def test_a_config_that_mlx_lm_fails_on_is_no_traceback(changes, model):
    edit(model / "config.json", **changes)
    find_model("model")
    refused(load_model, model, str(model), "the model cannot be loaded: ")


def test_code_of_a_model_is_never_executed_and_that_is_said(model, tmp_path):
    (model / "model.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    edit(model / "config.json", model_type="own", auto_map={"AutoModelForCausalLM": "model.Model"})
    what, remedy = "the architecture 'own'", "its own code (auto_map) is never executed"
    refused(find_model, "model", "model/config.json", what, remedy)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", ["[]", "3", "null", "{", "[" * 10_000, '{"eos_token_id": "x"}'])
def test_a_generation_config_that_is_none_is_refused_by_its_name(content, model):
    (model / "generation_config.json").write_text(content)
    with pytest.raises(DpoError) as caught:
        find_model("model")
    assert caught.value.where.startswith("model/generation_config.json")
    assert "or remove the file" in caught.value.hint or "x" in content


def test_fusing_copies_no_code_of_the_base(adapter, models, tmp_path):
    base = shutil.copytree(models("llama"), tmp_path / "base")
    (base / "modeling_llama.py").write_text("print('hello')")
    fused = fuse_run(str(base), adapter, tmp_path / "fused")
    assert not list(fused.glob("*.py"))
    assert (fused / "config.json").exists()


# ---- tokenizers


TOKENIZERS = {
    "a list for a length": ({"model_max_length": [4096]}, "model_max_length is [4096], not a number"),
    "half of a character in its template": (
        {"chat_template": "{{ messages }}\ud83d"},
        r"half of a character: '\ud83d'",
    ),
    "a number for a template": ({"chat_template": 5}, "chat_template is 5, not text"),
}


@cases(TOKENIZERS)
def test_a_tokenizer_with_wrong_settings_is_refused_by_its_file(case, model):
    changes, what = case
    edit(model / "tokenizer_config.json", **changes)
    refused(load_tokenizer, model, f"{model}/tokenizer_config.json", what)


@pytest.mark.parametrize(
    "changes",
    [{"eos_token": 5}, {"eos_token": ["a"]}, {"tokenizer_class": 3}, {"added_tokens_decoder": {"x": 3}}],
    ids=lambda changes: next(iter(changes)),
)
def test_settings_that_transformers_fails_on_are_no_traceback(changes, model):
    edit(model / "tokenizer_config.json", **changes)
    try:
        load_tokenizer(model)
    except DpoError as error:
        assert error.hint


@pytest.mark.parametrize("content", ["{}", "[]", '{"model": {"type": "BPE"}}', '{"added_tokens": 3}'])
def test_a_tokenizer_that_is_none_is_refused(content, model):
    (model / "tokenizer.json").write_text(content)
    with pytest.raises(DpoError) as caught:
        load_tokenizer(model)
    assert caught.value.where.startswith(str(model)) and caught.value.hint


@pytest.mark.parametrize("name", ["eos_token_id", "vocab_size", "hidden_size", "num_hidden_layers"])
def test_a_number_of_any_length_in_a_models_config_is_cut_in_the_message(models, tmp_path, name):
    base = shutil.copytree(models("llama"), tmp_path / "model")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, name: 10**400}))
    with pytest.raises(DpoError) as stop:
        read_model_config(base)
    assert len(str(stop.value).replace(str(tmp_path), "")) < 400
