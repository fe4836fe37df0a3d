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
    "without config.json": (
        without("config.json"),
        "model: is not a model folder: it has no config.json",
        "name a folder in hub layout (config.json, *.safetensors, tokenizer.json) or a Hub name",
    ),
    "without weights": (
        without("model.safetensors"),
        "model: has a config.json but no model*.safetensors",
        "the weights are missing; download the model again",
    ),
    "with half a config.json": (
        holding("config.json", '{"model_type": "llama"'),
        "model/config.json:1: not JSON: Expecting ',' delimiter",
        DOWNLOAD,
    ),
    "with a list for a config": (
        holding("config.json", "[]"),
        "model/config.json: is not a JSON object",
        DOWNLOAD,
    ),
    "with bytes for a config": (
        holding("config.json", b"\xff\xfe\xff"),
        "model/config.json: is not UTF-8 text",
        DOWNLOAD,
    ),
    "of an unknown architecture": (
        changed("config.json", '"llama"', '"lama"'),
        "model/config.json: mlx_lm does not know the architecture 'lama'",
        "pip install -U mlx-lm, or choose another model",
    ),
    "with weights that break off": (
        cut("model.safetensors", 200_000),
        "model/model.safetensors: is damaged or not whole",
        DOWNLOAD,
    ),
    "with empty weights": (
        cut("model.safetensors", 0),
        "model/model.safetensors: is damaged or not whole",
        DOWNLOAD,
    ),
    "with other bytes for weights": (
        holding("model.safetensors", b"<!DOCTYPE html>" * 99),
        "model/model.safetensors: is damaged or not whole",
        DOWNLOAD,
    ),
    "with fewer layers than its config says": (
        changed("config.json", '"num_hidden_layers": 3', '"num_hidden_layers": 5'),
        "model: the model cannot be loaded: Missing 18 parameters",
        "mlx_lm must know the architecture (pip install -U mlx-lm) and the files must be whole",
    ),
    "without tokenizer": (
        without("tokenizer.json", "tokenizer_config.json"),
        "model: its tokenizer cannot be loaded: it has no tokenizer.json",
        "the folder needs tokenizer.json and tokenizer_config.json; download the model again",
    ),
    "with a broken chat template": (
        changed("tokenizer_config.json", "{{ bos_token }}", "{% nonsense %}"),
        "model: the chat template cannot be read: Encountered unknown tag 'nonsense'. (line 1)",
        "take the model from where it was published, or set another model.chat_template",
    ),
    "with weights that are no numbers": (
        not_a_number,
        "rows.jsonl:1: the reference gives this pair no finite log-probability",
        "the model's weights hold NaN, or its dtype overflows: try a bfloat16 or float32 copy",
    ),
}


@cases(MODELS)
def test_a_damaged_model_is_refused(case, refused, tmp_path, write_rows, models):
    damage, what, remedy = case
    damage(shutil.copytree(models("llama"), tmp_path / "model"))
    write_rows("rows.jsonl", [pair()])
    refused(f"{TRAIN} --model model --output out", what, remedy)


@pytest.mark.parametrize(
    ("command", "row"), [(TRAIN, pair()), (GEN_PAIRS, curated())], ids=["train", "gen-pairs"]
)
def test_a_model_that_is_nowhere_is_refused(command, row, refused, write_rows):
    write_rows("rows.jsonl", [row])
    refused(
        f"{command} --model ./nope --output out",
        "./nope: no such folder, and not a Hub name (organisation/model)",
        "set model.path to a model folder, or to a name like ibm-granite/granite-4.0-h-micro",
    )


def test_a_conversation_that_the_chat_template_refuses_is_named(refused, tmp_path, write_rows, models):
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    folder = shutil.copytree(models("llama"), tmp_path / "model")
    changed("tokenizer_config.json", "{{ bos_token }}", refusal)(folder)
    write_rows("rows.jsonl", [pair(), pair(system="Be brief.")])
    refused(
        f"{TRAIN} --model model --output out",
        "rows.jsonl:2: the chat template refuses this conversation: no system turn",
        "check the order of roles; some templates know no system turn, some no tools",
    )


def test_layers_that_the_model_has_not_are_refused_with_those_it_has(refused, write_rows, models):
    write_rows("rows.jsonl", [pair()])
    refused(
        f"{TRAIN} --model {models('llama')} --output out --set adapter.targets=[q_proj,in_proj]",
        "adapter.targets: this model has no layer named in_proj",
        "its blocks have mlp.down_proj, mlp.gate_proj, mlp.up_proj, "
        "self_attn.k_proj, self_attn.o_proj, self_attn.q_proj, self_attn.v_proj",
    )


@pytest.mark.parametrize("bits", [3, 5, 6])
def test_dora_on_weights_of_odd_bits_is_refused(bits, refused, tmp_path, write_rows, models):
    convert(str(models("llama")), str(tmp_path / "model"), quantize=True, q_bits=bits)
    write_rows("rows.jsonl", [pair()])
    refused(
        f"{TRAIN} --model model --output out --set adapter.type=dora",
        "adapter.type: mlx_lm has no DoRA for weights of 3, 5 or 6 bits",
        "set adapter.type=lora, or model.path to a 4-bit or 8-bit copy",
    )


def test_full_training_of_a_quantised_model_is_refused(refused, write_rows, models):
    write_rows("rows.jsonl", [pair()])
    refused(
        f"{TRAIN} --model {models('granite-4bit')} --output out --set adapter.type=full",
        "adapter.type: full training cannot change quantised weights",
        "set adapter.type=lora, or model.path to the model before quantisation",
    )
