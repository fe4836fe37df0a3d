"""A fused folder is read back before it appears: planted damages are found, and messages name the part."""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest

from mlx_dpo.errors import DpoError
from mlx_dpo.export.fuse import fuse_run
from mlx_dpo.export.fused_model import FusedModel, fused_model
from mlx_dpo.export.prove_fused import prove_fused
from mlx_dpo.models.load import load_model, load_tokenizer

from ..support.export_content import made
from ..support.mistakes import edit
from ..support.planted import planted, random_rows

QUERY = "model.layers.1.self_attn.q_proj"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The folder of a fused hybrid, its base, and the fused model."""
    folder = tmp_path_factory.mktemp("plain")
    base, adapter = made(folder, "hybrid")
    return fuse_run(str(base), adapter, folder / "fused"), base, fused_model(base, adapter)


@pytest.fixture(scope="module")
def packed(tmp_path_factory, models):
    """The same of a model of 8 bits."""
    folder, base = tmp_path_factory.mktemp("packed"), models("llama-4bit")
    run = planted(base, folder / "run", 0.05)
    path = fuse_run(str(base), run, folder / "fused", precision="8", rows=random_rows(), max_kl_ratio=1.0)
    model, config = load_model(path)
    return path, base, FusedModel(model, load_tokenizer(base), config, True)


def tensors(change):
    """Damage to the weights."""

    def damage(folder):
        file = folder / "model.safetensors"
        weights = dict(mx.load(str(file)))
        change(weights)
        mx.eval(weights)
        mx.save_safetensors(str(file), weights, metadata={"format": "mlx"})

    return damage


def fields(name, **values):
    """Damage to fields of a JSON file."""
    return lambda folder: edit(folder / name, **values)


def one_number(weights):
    value = np.array(weights[f"{QUERY}.weight"])
    value[3, 5] = np.nextafter(value[3, 5], 9)
    weights[f"{QUERY}.weight"] = mx.array(value)


def transposed(weights):
    weights[f"{QUERY}.weight"] = mx.contiguous(weights[f"{QUERY}.weight"].T)


def renamed(weights):
    weights["model.layers.1.self_attn.query.weight"] = weights.pop(f"{QUERY}.weight")


def one_token(folder):
    content = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    one, other = "A", "B"
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    (folder / "tokenizer.json").write_text(json.dumps(content))


def no_merges(folder):
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["merges"] = content["model"]["merges"][:9]
    (folder / "tokenizer.json").write_text(json.dumps(content))


def other_template(folder):
    (folder / "chat_template.jinja").write_text("{{ messages }}")


DAMAGES = {
    "one number": (tensors(one_number), f"{QUERY}.weight"),
    "a transposed matrix": (tensors(transposed), f"{QUERY}.weight"),
    "the kernel of a convolution backwards": (
        tensors(lambda w: w.update({(n := "model.layers.0.mamba.conv1d.weight"): w[n][:, ::-1]})),
        "model.layers.0.mamba.conv1d.weight",
    ),
    "another name": (tensors(renamed), "the tensor model.layers.1.self_attn.q_proj.weight is missing"),
    "a tensor too few": (
        tensors(lambda w: w.pop("model.norm.weight")),
        "the tensor model.norm.weight is missing",
    ),
    "a tensor too much": (
        tensors(lambda w: w.update(extra=mx.zeros(3))),
        "the tensor extra is too much",
    ),
    "half precision": (
        tensors(lambda w: w.update({(n := "model.norm.weight"): w[n].astype(mx.float16)})),
        "model.norm.weight",
    ),
    "a scale": (fields("config.json", logits_scaling=3.0), "the field logits_scaling"),
    "a kind of block": (
        fields("config.json", layer_types=["mamba", "attention", "attention"]),
        "the field layer_types",
    ),
    "a field too few": (fields("config.json", rms_norm_eps=...), "the field rms_norm_eps"),
    "another end": (fields("config.json", eos_token_id=7), "the field eos_token_id"),
    "two tokens swapped": (one_token, "the token 'A'"),
    "merges that are gone": (no_merges, "a text of all entries has other tokens"),
    "another template": (other_template, "has another chat template"),
}


def test_a_fused_folder_is_the_fused_model(plain, packed):
    prove_fused(*plain)
    prove_fused(*packed)


def one_code(weights):
    codes = np.array(weights[f"{QUERY}.weight"])
    codes[2, 3] ^= 1
    weights[f"{QUERY}.weight"] = mx.array(codes)


PACKED_DAMAGES = {
    "one code": (tensors(one_code), f"{QUERY}.weight"),
    "one scale": (
        tensors(lambda w: w.update({(n := f"{QUERY}.scales"): w[n] * 1.01})),
        f"{QUERY}.scales",
    ),
    "other groups": (
        fields("config.json", quantization={"group_size": 64, "bits": 4, "mode": "affine"}),
        "the field quantization",
    ),
}


def check_told(written, damage, copy):
    """Damage to a copy of a written folder is found, and its part and its file are named."""
    folder, base, fused = written
    change, told = damage
    change(shutil.copytree(folder, copy))
    with pytest.raises(DpoError) as stop:
        prove_fused(copy, base, fused)
    assert told in stop.value.what and str(copy) in stop.value.where, str(stop.value)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_a_fused_folder_is_found_and_named(plain, tmp_path, damage):
    check_told(plain, DAMAGES[damage], tmp_path / "bad")


@pytest.mark.parametrize("damage", PACKED_DAMAGES)
def test_damage_to_a_quantised_folder_is_found_and_named(packed, tmp_path, damage):
    check_told(packed, PACKED_DAMAGES[damage], tmp_path / "bad")


def test_fuse_writes_nothing_that_mlx_lm_reads_as_another_model(plain, tmp_path, monkeypatch):
    """mlx_lm's own writer loses a number."""
    import mlx_lm.utils

    save = mlx_lm.utils.save

    def saves_badly(folder, *arguments, **more):
        save(folder, *arguments, **more)
        tensors(one_number)(folder)

    monkeypatch.setattr(mlx_lm.utils, "save", saves_badly)
    base, adapter = (plain[0].parent / name for name in ("hybrid", "hybrid-adapter"))
    with pytest.raises(DpoError, match="q_proj") as stop:
        fuse_run(str(base), adapter, tmp_path / "fused")
    assert stop.value.where == str(tmp_path / "fused")
    assert list(tmp_path.iterdir()) == []
