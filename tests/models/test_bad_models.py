"""Models that cannot be used: missing, damaged, or without what the settings name."""

import shutil

import pytest
from mlx_lm import convert

from ..support.mistakes import (
    DOWNLOAD,
    GEN_PAIRS,
    TRAIN,
    cases,
    changed,
    curated,
    cut,
    holding,
    not_a_number,
    pair,
    without,
)

MODELS = {
    "without config.json": (without("config.json"), "model", "no config.json", "in hub layout", ""),
    "without weights": (without("model.safetensors"), "model", "no model*.safetensors", DOWNLOAD, ""),
    "with half a config.json": (
        holding("config.json", '{"model_type": "llama"'),
        "model/config.json:1",
        "not JSON: Expecting ',' delimiter",
        DOWNLOAD,
        "",
    ),
    "with a list for a config": (
        holding("config.json", "[]"),
        "model/config.json",
        "not a JSON object",
        DOWNLOAD,
        "",
    ),
    "with bytes for a config": (
        holding("config.json", b"\xff\xfe\xff"),
        "model/config.json",
        "not UTF-8",
        DOWNLOAD,
        "",
    ),
    "of an unknown architecture": (
        changed("config.json", '"llama"', '"lama"'),
        "model/config.json",
        "the architecture 'lama'",
        "pip install -U mlx-lm",
        "",
    ),
    "with weights that break off": (
        cut("model.safetensors", 200_000),
        "model/model.safetensors",
        "damaged or incomplete",
        DOWNLOAD,
        "",
    ),
    "with empty weights": (
        cut("model.safetensors", 0),
        "model/model.safetensors",
        "damaged or incomplete",
        DOWNLOAD,
        "",
    ),
    "with other bytes for weights": (
        holding("model.safetensors", b"<!DOCTYPE html>" * 99),
        "model/model.safetensors",
        "damaged or incomplete",
        DOWNLOAD,
        "",
    ),
    "with fewer layers than its config says": (
        changed("config.json", '"num_hidden_layers": 3', '"num_hidden_layers": 5'),
        "model",
        "Missing 18 parameters",
        "pip install -U mlx-lm",
        "",
    ),
    "without tokenizer": (
        without("tokenizer.json", "tokenizer_config.json"),
        "model",
        "there is no tokenizer.json",
        DOWNLOAD,
        "",
    ),
    "with a broken chat template": (
        changed("tokenizer_config.json", "{{ bos_token }}", "{% nonsense %}"),
        "model",
        "Encountered unknown tag 'nonsense'. (line 1)",
        "set another model.chat_template",
        "template-refuses",
    ),
    "with weights that are no numbers": (
        not_a_number,
        "rows.jsonl:1",
        "no finite log-probability",
        "bfloat16 or float32 copy",
        "",
    ),
}


@cases(MODELS)
def test_a_damaged_model_is_refused(case, refused_at, tmp_path, write_rows, models):
    damage, *told = case
    damage(shutil.copytree(models("llama"), tmp_path / "model"))
    write_rows("rows.jsonl", [pair()])
    refused_at(f"{TRAIN} --model model --output out", *told)


@pytest.mark.parametrize(
    ("command", "row"), [(TRAIN, pair()), (GEN_PAIRS, curated())], ids=["train", "gen-pairs"]
)
def test_a_model_that_is_nowhere_is_refused(command, row, refused_at, write_rows):
    write_rows("rows.jsonl", [row])
    refused_at(f"{command} --model ./nope --output out", "./nope", "no such folder", "set model.path to")


def test_a_conversation_that_the_chat_template_refuses_is_named(refused_at, tmp_path, write_rows, models):
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    folder = shutil.copytree(models("llama"), tmp_path / "model")
    changed("tokenizer_config.json", "{{ bos_token }}", refusal)(folder)
    write_rows("rows.jsonl", [pair(), pair(system="Be brief.")])
    refused_at(
        f"{TRAIN} --model model --output out",
        "rows.jsonl:2",
        "the chat template refuses this conversation: no system turn",
        "check the order of roles",
        "template-refuses",
    )


def test_layers_that_the_model_has_not_are_refused_with_those_it_has(refused_at, write_rows, models):
    write_rows("rows.jsonl", [pair()])
    refused_at(
        f"{TRAIN} --model {models('llama')} --output out --set adapter.targets=[q_proj,in_proj]",
        "adapter.targets",
        "no layer named in_proj",
        "mlp.down_proj, mlp.gate_proj, mlp.up_proj, "
        "self_attn.k_proj, self_attn.o_proj, self_attn.q_proj, self_attn.v_proj",
    )


@pytest.mark.parametrize("bits", [3, 5, 6])
def test_dora_on_weights_of_odd_bits_is_refused(bits, refused_at, tmp_path, write_rows, models):
    convert(str(models("llama")), str(tmp_path / "model"), quantize=True, q_bits=bits)
    write_rows("rows.jsonl", [pair()])
    command = f"{TRAIN} --model model --output out --set adapter.type=dora"
    refused_at(
        command, "adapter.type", "3, 5 or 6 bits", "set adapter.type=lora, or set model.path to a 4-bit"
    )


def test_full_training_of_a_quantised_model_is_refused(refused_at, write_rows, models):
    write_rows("rows.jsonl", [pair()])
    command = f"{TRAIN} --model {models('granite-4bit')} --output out --set adapter.type=full"
    refused_at(command, "adapter.type", "quantised weights", "set adapter.type=lora, or set model.path to")
