"""Adapters of other programs, in part, or with wrong values: named, with the way out."""

import json
import shutil

import pytest

from mlx_dpo.errors import DpoError
from mlx_dpo.models.adapters import read_adapter_config
from mlx_dpo.models.peft_adapter import check_adapter

from ..support.mistakes import (
    COPY_RUN,
    cases,
    edit,
    refused,
)

PEFT = {"peft_type": "LORA", "base_model_name_or_path": "org/base", "r": 8, "lora_alpha": 16}


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_model.bin", "adapters.safetensors"])
def test_an_adapter_of_peft_is_not_read_as_one_of_mlx_but_told_with_both_ways_out(name, adapter):
    (adapter / "adapters.safetensors").rename(adapter / name)
    (adapter / "adapter_config.json").write_text(json.dumps(PEFT))
    for way_out in ("merge_and_unload", "set model.adapter to this folder"):
        refused(read_adapter_config, "run", "run", "is a PEFT adapter", way_out)


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"peft_type": 3}, "peft_type is 3"),
        ({"peft_type": "LORA", "r": "8"}, "r is '8'"),
        ({"peft_type": "IA3", "r": 0, "lora_alpha": 1}, "peft_type is 'IA3'"),
    ],
)
def test_an_adapter_of_peft_with_odd_values_is_told_too(config, what, adapter):
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    refused(read_adapter_config, "run", "run", "is a PEFT adapter")
    refused(check_adapter, "run", "run/adapter_config.json", what)


def test_weights_of_peft_without_a_config_are_told(adapter):
    (adapter / "adapters.safetensors").rename(adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").unlink()
    refused(read_adapter_config, "run", "run", "is a PEFT adapter")
    refused(check_adapter, "run", "run", "without adapter_config.json")


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
