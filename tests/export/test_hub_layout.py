"""What is exported has the names, axes and bits of the base on the Hub."""

import json
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_dpo.demo.family_models import CONFIGS, make_adapter, make_hub_model
from mlx_dpo.demo.tiny_models import LLAMA3
from mlx_dpo.errors import DpoError
from mlx_dpo.export.hf import export_hf
from mlx_dpo.export.hub_layout import BaseTensors, HubTensors, base_tensors, hub_tensors
from mlx_dpo.export.hub_model import export_bytes
from mlx_dpo.models.adapters import load_adapter
from mlx_dpo.models.load import ModelConfig, load_model

from ..conftest import curated_rows

TEXTS = [f"{r['prompt']} {r['answer']}" for r in curated_rows("base.jsonl")[:60]]


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A model as published: `hub("hybrid")`."""
    folder = tmp_path_factory.mktemp("hub")

    def get(family):
        path = folder / family
        return path if path.exists() else make_hub_model(path, family, TEXTS)

    return get


@pytest.fixture(scope="module")
def exported(hub, tmp_path_factory):
    """Base, adapter and export of a family, all blocks adapted but the first."""
    folder = tmp_path_factory.mktemp("exported")

    def get(family):
        path, adapter = folder / family, folder / f"{family}-adapter"
        if not path.exists():
            make_adapter(hub(family), adapter, layers=2)
            export_hf(str(hub(family)), adapter, path)
        return hub(family), adapter, path

    return get


def tensors_of(folder):
    return base_tensors(folder).tensors


def same_bits(one, other):
    return one.dtype == other.dtype and one.shape == other.shape and mx.array_equal(one, other).item()


@pytest.mark.parametrize("family", CONFIGS)
def test_what_mlx_lm_loads_has_the_bits_of_the_files_again(hub, family):
    model, config = load_model(hub(family))
    base = base_tensors(hub(family))
    tensors = hub_tensors(model, config, base, hub(family))
    assert {*tensors} == {*base.tensors}
    assert all(same_bits(tensors[n], base.tensors[n]) for n in tensors)


def test_gate_comes_before_up_and_the_kernel_is_turned():
    """Worked by hand: gate rows 1, up rows 2; a kernel of 2 channels and width 3."""
    weights = {
        "model.layers.0.mlp.up_proj.weight": mx.full((2, 1), 2.0),
        "model.layers.0.mlp.gate_proj.weight": mx.full((2, 1), 1.0),
        "model.layers.0.mamba.conv1d.weight": mx.array([[[1.0], [2.0], [3.0]], [[4.0], [5.0], [6.0]]]),
    }
    tensors = HubTensors("granitemoehybrid", weights)
    assert tensors["model.layers.0.shared_mlp.input_linear.weight"].tolist() == [[1], [1], [2], [2]]
    assert tensors["model.layers.0.mamba.conv1d.weight"].tolist() == [[[1, 2, 3]], [[4, 5, 6]]]
    assert HubTensors("llama", weights)["model.layers.0.mlp.up_proj.weight"].tolist() == [[2], [2]]


@pytest.mark.parametrize("family", ["llama", "hybrid", "hybrid-moe", "gemma3"])
def test_tensors_that_training_did_not_touch_have_the_bits_of_the_base(exported, family):
    base, _, path = exported(family)
    before, after = tensors_of(base), tensors_of(path)
    assert {*after} == {*before}
    differ = {n for n in before if not same_bits(before[n], after[n])}
    assert differ
    layers = CONFIGS[family][0].get("num_hidden_layers", 3)
    touched = tuple(f"model.layers.{n}." for n in range(layers - 2, layers))
    assert all(n.startswith(touched) and "norm" not in n for n in differ)


@pytest.mark.parametrize("family", ["qwen2", "hybrid", "hybrid-moe"])
def test_mlx_lm_reads_the_export_as_base_and_adapter(exported, family):
    base, adapter, path = exported(family)
    model, _ = load_model(base)
    tokens = mx.array([[5, 9, 300, 41, 7, 19, 22]])
    before = np.array(model(tokens))
    load_adapter(model, adapter)
    expected = np.array(model(tokens))
    got = np.array(load_model(path)[0](tokens))
    np.testing.assert_allclose(got, expected, atol=2e-5 * np.abs(expected).max())
    assert np.abs(expected - before).max() > 1e-2 * np.abs(expected).max()


def test_config_and_tokenizer_files_are_those_of_the_base(exported):
    base, _, path = exported("hybrid")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (path / name).read_bytes() == (base / name).read_bytes()
    assert json.loads((path / "config.json").read_text()) == json.loads((base / "config.json").read_text())
    assert mx.load(str(path / "model.safetensors"), return_metadata=True)[1]["format"] == "pt"


def test_the_template_of_the_run_replaces_that_of_the_base(hub, tmp_path):
    from transformers import AutoTokenizer

    base = hub("llama")
    adapter = make_adapter(base, tmp_path / "adapter")
    template = LLAMA3.template.replace("| trim", "")
    (tmp_path / "own.jinja").write_text(template)
    asked = ModelConfig(path=str(base), chat_template=str(tmp_path / "own.jinja"))
    path = export_hf(str(base), adapter, tmp_path / "out", asked)
    assert AutoTokenizer.from_pretrained(path).chat_template == template
    assert "chat_template" not in json.loads((path / "tokenizer_config.json").read_text())


def test_an_end_of_turn_that_the_base_does_not_list_is_added(hub, tmp_path):
    """Gemma's files list <eos>; its template ends a turn with <end_of_turn>."""
    base = hub("gemma3")
    path = export_hf(str(base), make_adapter(base, tmp_path / "adapter"), tmp_path / "out")
    ids = {t["content"]: t["id"] for t in json.loads((base / "tokenizer.json").read_text())["added_tokens"]}
    for name in ("config.json", "generation_config.json"):
        listed = json.loads((path / name).read_text())["eos_token_id"]
        assert listed == [ids["<eos>"], ids["<end_of_turn>"]]


def test_a_large_model_is_written_in_several_files_with_an_index(hub, tmp_path):
    base = hub("hybrid")
    adapter = make_adapter(base, tmp_path / "adapter")
    path = export_hf(str(base), adapter, tmp_path / "out", shard_bytes=100_000)
    index = json.loads((path / "model.safetensors.index.json").read_text())
    files = sorted(p.name for p in path.glob("*.safetensors"))
    assert len(files) > 3
    assert sorted(set(index["weight_map"].values())) == files
    assert {n for f in files for n in mx.load(str(path / f))} == {*index["weight_map"]} == {*tensors_of(base)}
    assert index["metadata"]["total_size"] == sum(v.nbytes for v in tensors_of(base).values())
    one = export_hf(str(base), adapter, tmp_path / "one")
    assert all(same_bits(v, tensors_of(path)[n]) for n, v in tensors_of(one).items())


def test_a_quantised_base_is_written_plain_with_the_names_of_the_hub(models, tmp_path):
    base = models("granite-4bit")
    path = export_hf(str(base), make_adapter(base, tmp_path / "adapter"), tmp_path / "out")
    names = {*tensors_of(path)}
    assert "model.layers.0.shared_mlp.input_linear.weight" in names
    assert not any(n.endswith((".scales", ".biases")) for n in names)
    assert "quantization" not in json.loads((path / "config.json").read_text())
    assert tensors_of(path)["model.layers.0.mamba.conv1d.weight"].shape[1] == 1


def renamed(base, to, change):
    """A copy of a model whose tensors went through `change`."""
    shutil.copytree(base, to)
    tensors = {n: v for n, v in tensors_of(base).items()}
    change(tensors)
    mx.save_safetensors(str(to / "model.safetensors"), tensors, metadata={"format": "pt"})
    return to


def test_parts_that_mlx_lm_does_not_load_are_kept_and_second_copies_left_out(hub, tmp_path):
    picture = mx.random.normal((3, 4))

    def change(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]

    base = renamed(hub("qwen3"), tmp_path / "base", change)
    path = export_hf(str(base), make_adapter(base, tmp_path / "adapter"), tmp_path / "out")
    assert {*tensors_of(path)} == {*tensors_of(hub("qwen3"))}
    model, config = load_model(hub("qwen3"))
    more = tensors_of(hub("qwen3")) | {"vision_tower.patch.weight": picture}
    tensors = hub_tensors(model, config, BaseTensors(more, False, False), tmp_path)
    assert same_bits(tensors["vision_tower.patch.weight"], picture)
    with pytest.raises(DpoError, match="unknown layout: vision_tower") as error:
        hub_tensors(model, config, BaseTensors(more, True, False), tmp_path)
    assert error.value.code == "unknown-tensor"


def test_a_tensor_that_the_base_does_not_have_is_refused(hub):
    model, config = load_model(hub("llama"))
    base = base_tensors(hub("llama"))
    less = {n: v for n, v in base.tensors.items() if n != "model.layers.1.mlp.up_proj.weight"}
    with pytest.raises(DpoError, match=r"model\.layers\.1\.mlp\.up_proj\.weight") as error:
        hub_tensors(model, config, base._replace(tensors=less), Path("base"))
    assert error.value.code == "unknown-tensor"


def test_another_family_is_exported_only_if_its_names_are_those_of_the_hub(hub):
    """mlx_lm's llama under another name: as published it is proved by its files, converted it is not."""
    model, config = load_model(hub("llama"))
    base, config = (
        base_tensors(hub("llama")),
        config
        | {
            "model_type": "helium",
            "attention_bias": False,
            "mlp_bias": False,
            "head_dim": 16,
        },
    )
    assert {*hub_tensors(model, config, base, Path("base"))} == {*base.tensors}
    with pytest.raises(DpoError, match="'helium' is not known") as error:
        hub_tensors(model, config, base._replace(converted=True), Path("base"))
    assert error.value.code == "unknown-layout"


def test_weights_that_mlx_lm_would_change_on_reading_are_refused(hub, monkeypatch):
    """An architecture whose loading adds 1 to its norms would add it twice."""
    from mlx_lm.models import llama

    def sanitize(self, weights):
        return {n: v + 1 if "norm" in n else v for n, v in weights.items()}

    model, config = load_model(hub("llama"))
    monkeypatch.setattr(llama.Model, "sanitize", sanitize)
    with pytest.raises(DpoError, match="input_layernorm") as error:
        hub_tensors(model, config, base_tensors(hub("llama")), Path("base"))
    assert error.value.code == "not-read-back"


def test_nothing_is_left_when_the_proof_fails(hub, tmp_path):
    base = hub("llama")
    adapter = make_adapter(base, tmp_path / "adapter")

    def prove(folder, source):
        assert (folder / "model.safetensors").exists()
        raise DpoError("is wrong")

    with pytest.raises(DpoError, match="is wrong"):
        export_hf(str(base), adapter, tmp_path / "out", prove=prove)
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]


def test_a_target_that_exists_is_refused_before_anything_is_loaded(hub, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    with pytest.raises(DpoError, match="exists already") as error:
        export_hf(str(hub("llama")), tmp_path / "no adapter", tmp_path / "out")
    assert error.value.code == "exists"


def test_names_of_mlx_lm_that_are_not_of_granite_stay(hub):
    model, _ = load_model(hub("gemma3"))
    weights = dict(tree_flatten(model.parameters()))
    assert {*HubTensors("gemma3_text", weights)} == {*weights}


def test_room_on_the_disk_is_asked_for_as_much_as_is_written(hub, models, exported):
    """A plain base takes its own size; 4-bit weights of 32 numbers a scale take 4 bytes a number again."""
    plain = base_tensors(hub("hybrid"))
    written = sum(v.nbytes for v in tensors_of(exported("hybrid")[2]).values())
    assert export_bytes(plain, 64, None) == written == 2 * export_bytes(plain, 64, 2.0)
    whole, packed = (export_bytes(base_tensors(models(n)), 32, None) for n in ("granite", "granite-4bit"))
    assert whole == packed
