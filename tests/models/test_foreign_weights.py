"""Models and adapters of other programs, in part, or with wrong values: named, with the way out."""

import json
import shutil

import mlx.core as mx
import pytest

from mlx_dpo.errors import DpoError
from mlx_dpo.export.fuse import fuse_run
from mlx_dpo.models.adapters import read_adapter_config
from mlx_dpo.models.config_files import read_model_config
from mlx_dpo.models.load import find_model, load_model, load_tokenizer

from ..support.mistakes import COPY_RUN, DOWNLOAD, GEN_PAIRS, TRAIN, assert_told, cases, curated, lines, pair


@pytest.fixture
def model(tmp_path, models, monkeypatch):
    """A copy of the tiny Llama in the test's folder, under the name `model`."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(models("llama"), tmp_path / "model")


@pytest.fixture
def adapter(tmp_path, trained, monkeypatch):
    """A copy of a run of the tiny Llama in the test's folder, under the name `run`."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(trained("llama"), tmp_path / "run")


def refused(call, argument, place, phrase, remedy=""):
    """The call must refuse its argument at this place, with a message that holds the phrase."""
    with pytest.raises(DpoError) as caught:
        call(argument)
    assert_told(caught.value, place, phrase, remedy)


def edit(file, **changes):
    """Set values of a JSON object; ... removes one."""
    content = json.loads(file.read_text()) if file.exists() else {}
    content = {name: value for name, value in (content | changes).items() if value is not ...}
    file.write_text(json.dumps(content))


# ---- weights


KINDS = {
    "pytorch_model.bin": "save_pretrained('model')",
    "pytorch_model-00001-of-00002.bin": "save_pretrained('model')",
    "weights.pth": "save_pretrained('model')",
    "consolidated.00.pth": "in hub layout",
    "consolidated.safetensors": "in hub layout",
    "llama-Q4_K_M.gguf": "the safetensors model that it was made from",
    "weights.npz": "mlx_lm convert",
    "tf_model.h5": "in hub layout",
    "weights.00.safetensors": "rename weights.00.safetensors to model.safetensors",
}


@pytest.mark.parametrize("name", KINDS)
def test_weights_that_mlx_lm_does_not_read_are_named_with_the_way_out(name, model):
    (model / "model.safetensors").rename(model / name)
    (model / "training_args.bin").touch()
    refused(find_model, "model", "model", f"weights only in {name}", KINDS[name])


def test_the_original_layout_of_a_model_without_config_is_named(model):
    (model / "model.safetensors").rename(model / "consolidated.safetensors")
    (model / "config.json").rename(model / "params.json")
    refused(find_model, "model", "model", "weights only in consolidated.safetensors")


def test_a_single_file_is_no_model(model):
    (model / "llama.gguf").touch()
    refused(find_model, "model/llama.gguf", "model/llama.gguf", "is a file, not a model folder", "GGUF")


def test_an_adapter_in_the_place_of_a_model_is_told(adapter):
    refused(find_model, "run", "run", "is an adapter folder", "model.adapter to this folder")


def in_parts(model, *, index=True):
    """Write the weights as two parts."""
    weights = mx.load(str(model / "model.safetensors"))
    names = sorted(weights)
    table = {n: f"model-0000{1 + (i > len(names) // 2)}-of-00002.safetensors" for i, n in enumerate(names)}
    for part in set(table.values()):
        mx.save_safetensors(str(model / part), {n: weights[n] for n in names if table[n] == part})
    (model / "model.safetensors").unlink()
    if index:
        (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))


@pytest.mark.parametrize("index", [True, False], ids=["with an index", "without an index"])
def test_a_part_of_the_weights_that_is_missing_is_named(index, model):
    in_parts(model, index=index)
    assert find_model("model") == model.relative_to(model.parent)
    load_model(model)
    (model / "model-00002-of-00002.safetensors").unlink()
    place = "model/model.safetensors.index.json" if index else "model"
    refused(find_model, "model", place, "model-00002-of-00002.safetensors", DOWNLOAD)
    refused(find_model, "model", place, "is missing", DOWNLOAD)


def test_an_index_of_earlier_files_does_not_count(model):
    table = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(table))
    find_model("model")


@pytest.mark.parametrize("table", [{}, {"weight_map": []}, {"weight_map": {"a": 3}}])
def test_an_index_without_file_names_is_refused(table, model):
    (model / "model.safetensors.index.json").write_text(json.dumps(table))
    refused(find_model, "model", "model/model.safetensors.index.json", "no weight_map")


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


# ---- tokens beyond the embedding


def with_token(model, token, *, special):
    """Add a token that has the first id beyond the model's embedding; the id."""
    file = model / "tokenizer.json"
    content = json.loads(file.read_text())
    number = json.loads((model / "config.json").read_text())["vocab_size"]
    content["added_tokens"].append(
        {"id": number, "content": token, "single_word": False, "lstrip": False, "rstrip": False}
        | {"normalized": False, "special": special}
    )
    file.write_text(json.dumps(content))
    return number


def test_a_token_of_the_template_beyond_the_embedding_is_refused_by_every_command(model, write_rows, capsys):
    number = with_token(model, "<|turn|>", special=True)
    settings = model / "tokenizer_config.json"
    template = json.loads(settings.read_text())["chat_template"]
    edit(settings, chat_template=template.replace("{{ bos_token }}", "{{ bos_token }}<|turn|>"))
    what = f"the {number} rows of the model's embedding: {number} '<|turn|>'"
    refused(load_tokenizer, model, str(model), what, f"resize_token_embeddings({number + 1})")


@pytest.mark.parametrize("weights", [True, False], ids=["by its weights", "by its config"])
def test_a_plain_token_beyond_the_embedding_is_refused(weights, model):
    number = with_token(model, "zebra", special=False)
    if not weights:
        (model / "model.safetensors").unlink()
    refused(load_tokenizer, model, str(model), f"{number} 'zebra'")


def test_an_end_token_beyond_the_embedding_is_refused(model):
    edit(model / "config.json", eos_token_id=[5, 100_000])
    refused(load_tokenizer, model, str(model), "100000")


def test_a_special_token_that_nothing_uses_is_told_and_refused_in_the_rows_that_spell_it(
    model, tmp_path, capsys, refused_command
):
    number = with_token(model, "<image_soft_token>", special=True)
    load_tokenizer(model)
    assert f"none for <image_soft_token> ({number})" in " ".join(capsys.readouterr().err.split())
    spelt = "What is <image_soft_token>?"
    (tmp_path / "rows.jsonl").write_text(lines(pair(), pair(prompt=spelt)))
    (tmp_path / "curated.jsonl").write_text(lines(curated(), curated(prompt=spelt)))
    for command, file in ((TRAIN, "rows.jsonl"), (GEN_PAIRS.replace("rows", "curated"), "curated.jsonl")):
        error = refused_command(f"{command} --model model --output out")
        assert f"{file}:2: contains the token '<image_soft_token>' ({number})" in error


def test_an_embedding_with_rows_to_spare_is_taken_without_a_word(model, capsys):
    weights = mx.load(str(model / "model.safetensors"))
    name = "model.embed_tokens.weight"
    more = mx.concatenate([weights[name], mx.zeros((64, weights[name].shape[1]))])
    mx.save_safetensors(str(model / "model.safetensors"), weights | {name: more})
    edit(model / "config.json", vocab_size=len(more))
    load_tokenizer(model)
    assert capsys.readouterr().err == ""


@pytest.fixture
def refused_command(capsys):
    """Run a command that a user's mistake ends: what it says."""
    from mlx_dpo.cli import main

    def run(command):
        with pytest.raises(SystemExit) as stop:
            main(command.split())
        assert stop.value.code == 1
        return capsys.readouterr().err

    return run


# ---- adapters


PEFT = {"peft_type": "LORA", "base_model_name_or_path": "org/base", "r": 8, "lora_alpha": 16}


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_model.bin", "adapters.safetensors"])
def test_an_adapter_of_peft_is_told_with_both_ways_out(name, adapter):
    (adapter / "adapters.safetensors").rename(adapter / name)
    (adapter / "adapter_config.json").write_text(json.dumps(PEFT))
    for way_out in ("merge_and_unload", "scale = lora_alpha / r = 2"):
        refused(read_adapter_config, "run", "run", "is a PEFT adapter (LORA) for org/base", way_out)


@pytest.mark.parametrize(
    "config",
    [{"peft_type": 3}, {"peft_type": "LORA", "r": "8"}, {"peft_type": "IA3", "r": 0, "lora_alpha": 1}],
)
def test_an_adapter_of_peft_with_odd_values_is_told_too(config, adapter):
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    refused(read_adapter_config, "run", "run", "is a PEFT adapter")


def test_weights_of_peft_without_a_config_are_told(adapter):
    (adapter / "adapters.safetensors").rename(adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").unlink()
    refused(read_adapter_config, "run", "run", "is a PEFT adapter")


@pytest.mark.parametrize("name", ["adapters.npz", "adapter.gguf", "lora.bin"])
def test_adapter_weights_of_other_kinds_are_named(name, adapter):
    (adapter / "adapters.safetensors").rename(adapter / name)
    refused(read_adapter_config, "run", "run", f"weights in {name}")


def test_a_folder_or_file_that_is_no_adapter_is_told(adapter):
    refused(read_adapter_config, "nowhere", "nowhere", "no such folder")
    name = "run/adapters.safetensors"
    refused(read_adapter_config, name, name, "is a file, not an adapter folder")


LORA = {
    "text for a rank": ({"rank": "16"}, "rank is '16', not a whole number"),
    "truth for a rank": ({"rank": True}, "rank is True, not a whole number"),
    "another rank than the weights": ({"rank": 10**9}, "its rank is 1000000000, but model.layers.0"),
    "text for a scale": ({"scale": "2"}, "scale is '2', not a number"),
    "no end to its scale": ({"scale": float("inf")}, "scale must be a number, got inf"),
    "a scale beyond floats": ({"scale": 10**400}, "int too large to convert to float"),
    "a list for a dropout": ({"dropout": [0]}, "dropout is [0], not a number"),
    "a number for keys": ({"keys": 3}, "keys is 3, not a list"),
    "a number among keys": (
        {"keys": [3, "self_attn.q_proj"]},
        "keys is [3, 'self_attn.q_proj'], not a list of",
    ),
    "no scale": ({"scale": ...}, "it has no 'scale'"),
}


@cases(LORA)
def test_settings_of_an_adapter_with_wrong_values_are_refused(case, adapter):
    changes, what = case
    file = adapter / "adapter_config.json"
    lora = json.loads(file.read_text())["lora_parameters"] | changes
    edit(file, lora_parameters={name: value for name, value in lora.items() if value is not ...})
    refused(read_adapter_config, "run", "run/adapter_config.json", what, COPY_RUN)


@pytest.mark.parametrize(
    "changes",
    [{"num_layers": "3"}, {"num_layers": None}, {"lora_parameters": [1]}, {"fine_tune_type": ["lora"]}],
)
def test_an_adapter_config_with_wrong_kinds_is_refused(changes, adapter):
    edit(adapter / "adapter_config.json", **changes)
    refused(read_adapter_config, "run", "run/adapter_config.json", "not an adapter that mlx_lm can load")


def test_an_adapter_as_mlx_lm_writes_it_is_taken(adapter):
    edit(adapter / "adapter_config.json", sha256=..., fine_tune_type=..., model=..., batch_size=4)
    assert read_adapter_config("run").rank == 16


@pytest.mark.parametrize("name", ["rank", "scale", "dropout", "keys"])
def test_a_value_of_any_length_is_cut_in_the_message(trained, tmp_path, name):
    run = shutil.copytree(trained("llama"), tmp_path / "run")
    config = json.loads((run / "adapter_config.json").read_text())
    del config["sha256"]
    config["lora_parameters"][name] = 10**400
    (run / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(DpoError) as stop:
        read_adapter_config(run)
    assert len(str(stop.value).replace(str(tmp_path), "")) < 400


@pytest.mark.parametrize("name", ["eos_token_id", "vocab_size", "hidden_size", "num_hidden_layers"])
def test_a_number_of_any_length_in_a_models_config_is_cut_in_the_message(models, tmp_path, name):
    base = shutil.copytree(models("llama"), tmp_path / "model")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, name: 10**400}))
    with pytest.raises(DpoError) as stop:
        read_model_config(base)
    assert len(str(stop.value).replace(str(tmp_path), "")) < 400
