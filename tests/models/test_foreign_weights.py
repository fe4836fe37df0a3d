"""Weights of other programs or in part are named, with the way out."""

import json

import mlx.core as mx
import pytest

from mlx_dpo.models.load import find_model, load_model

from ..support.mistakes import (
    DOWNLOAD,
    refused,
)

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
