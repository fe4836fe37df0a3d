"""Adapters for PEFT: PEFT on torch computes the same, and they come back bit for bit."""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest

from mlx_dpo.errors import DpoError
from mlx_dpo.export import prove_peft as prove_peft_module
from mlx_dpo.export.peft import consumer_notes, peft_adapter, whole_alpha
from mlx_dpo.export.peft_run import export_peft
from mlx_dpo.export.prove_peft import Module, differences, prove_peft
from mlx_dpo.models.adapters import (
    AdapterConfig,
    attach,
    read_adapter_config,
    save_adapter_config,
    save_adapter_weights,
)
from mlx_dpo.models.hub_blocks import blocks_of
from mlx_dpo.models.load import ModelConfig, load_model
from mlx_dpo.models.peft_adapter import mlx_adapter

from ..golden.golden_peft import CONFIGS, tensors_hash, write_adapter
from ..support.peft_bases import GOLDEN, base_folder, log_probs


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    return lambda name: base_folder(folder, name)


def exported(tmp_path, name, kind, change=lambda config, weights: None):
    """An adapter of mlx_dpo on all linear layers, and its export; `change` is made to the adapter first."""
    adapter = write_adapter(tmp_path / "run", name, kind)
    config = json.loads((adapter / "adapter_config.json").read_text())
    weights = dict(mx.load(str(adapter / "adapters.safetensors")))
    change(config, weights)
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    mx.eval(weights)
    mx.save_safetensors(str(adapter / "adapters.safetensors"), weights, metadata={"format": "mlx"})
    made = peft_adapter(adapter, read_adapter_config(adapter), blocks_of(CONFIGS[name]), "org/base")
    folder = tmp_path / "peft"
    folder.mkdir()
    made.write(folder)
    return adapter, folder, made


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("name", CONFIGS)
def test_peft_on_torch_computes_what_mlx_computes(tmp_path, bases, name, kind):
    """The exported tensors are those that PEFT had read when its numbers were stored."""
    adapter, folder, _ = exported(tmp_path, name, kind)
    stored = GOLDEN["exported"][f"{name}-{kind}"]
    assert tensors_hash(folder / "adapter_model.safetensors") == stored["tensors"]
    ours = log_probs(bases(name), adapter)
    np.testing.assert_allclose(ours, stored["log_probs"], atol=1e-4)
    assert np.abs(ours - log_probs(bases(name))).max() > 0.25


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("name", ["llama", "granite"])
def test_an_export_comes_back_bit_for_bit(tmp_path, bases, name, kind):
    adapter, folder, _ = exported(tmp_path, name, kind)
    assert_comes_back(adapter, folder, bases(name))


def assert_comes_back(adapter, folder, base):
    back = mlx_adapter(folder, base)
    one, other = (mx.load(str(place / "adapters.safetensors")) for place in (adapter, back))
    assert one.keys() == other.keys()
    assert all(np.array_equal(np.array(one[n]), np.array(other[n])) for n in one)
    assert read_adapter_config(back) == read_adapter_config(adapter)


def of_layers(*names, since=0):
    """Keep the adapter's layers with these names, of the blocks from `since` on."""

    def change(config, weights):
        config["lora_parameters"]["keys"] = sorted(names)
        config["num_layers"] = 3 - since if since else -1
        for key in list(weights):
            _, _, block, rest = key.split(".", 3)
            if rest.rsplit(".", 1)[0] not in names or int(block) < since:
                del weights[key]

    return change


@pytest.mark.parametrize("layer", ["mlp.gate_proj", "mlp.up_proj"])
def test_one_half_of_a_joined_layer_comes_back_alone(tmp_path, bases, layer):
    adapter, folder, made = exported(tmp_path, "granite", "lora", of_layers(layer, "self_attn.q_proj"))
    assert made.config["r"] == 4
    assert made.config["target_modules"] == ["input_linear", "q_proj"]
    assert_comes_back(adapter, folder, bases("granite"))


def test_an_adapter_of_the_last_blocks_names_its_modules_in_full(tmp_path, bases):
    adapter, folder, made = exported(tmp_path, "llama", "dora", of_layers("mlp.up_proj", since=2))
    assert made.config["target_modules"] == ["model.layers.2.mlp.up_proj"]
    assert_comes_back(adapter, folder, bases("llama"))


def test_an_untrained_adapter_comes_back_with_its_first_values(tmp_path, bases):
    def untrained(config, weights):
        weights |= {n: mx.zeros_like(w) for n, w in weights.items() if n.endswith("lora_b")}

    adapter, folder, _ = exported(tmp_path, "granite", "lora", untrained)
    assert_comes_back(adapter, folder, bases("granite"))


@pytest.mark.parametrize("scale", [0.3125, 0.7, 1 / 3, 20.0])
def test_any_scale_comes_back(tmp_path, bases, scale):
    def change(config, weights):
        config["lora_parameters"]["scale"] = scale

    adapter, folder, _ = exported(tmp_path, "llama", "lora", change)
    assert_comes_back(adapter, folder, bases("llama"))


@pytest.mark.parametrize(
    ("scale", "rank", "alpha", "factor"),
    [(2.0, 16, 32, 1), (1.5, 8, 12, 1), (0.3125, 8, 5, 0.5), (0.0625, 4, 1, 0.25), (0.7, 16, 11.2, 1)],
)
def test_alpha_is_a_whole_number_where_a_power_of_two_makes_it_one(scale, rank, alpha, factor):
    assert whole_alpha(scale, rank) == (pytest.approx(alpha, rel=1e-15), factor)
    assert isinstance(whole_alpha(scale, rank)[0], int) == (alpha != 11.2)


def test_every_module_has_one_rank_and_the_joined_one_uses_all_of_it(tmp_path):
    """vLLM and llama.cpp ignore patterns of ranks and scales."""
    _, folder, made = exported(tmp_path, "granite", "lora")
    tensors = mx.load(str(folder / "adapter_model.safetensors"))
    assert {w.shape[0] for n, w in tensors.items() if "lora_A" in n} == {8}
    assert (made.config["r"], made.config["lora_alpha"]) == (8, 12)
    assert not (made.config["rank_pattern"] or made.config["alpha_pattern"])
    first = tensors["base_model.model.model.layers.0.shared_mlp.input_linear.lora_B.weight"]
    blocks = [[(first[rows, columns] != 0).any().item() for columns in HALVES] for rows in ROWS]
    assert blocks == [[True, False], [False, True]]
    other = tensors["base_model.model.model.layers.0.mamba.in_proj.lora_B.weight"]
    assert [(other[:, columns] != 0).any().item() for columns in HALVES] == [True, False]


HALVES, ROWS = (slice(0, 4), slice(4, 8)), (slice(0, 64), slice(64, 128))


def test_what_other_programs_refuse_is_said_with_the_flag():
    config = {"r": 32, "lora_alpha": 64, "use_dora": False, "base_model_name_or_path": "org/base"}
    assert "add --max-lora-rank 32" in consumer_notes(config, "out")[0]
    assert "convert_lora_to_gguf.py out" in consumer_notes(config, "out")[1]
    assert "add --max-lora-rank 64" in consumer_notes({**config, "r": 33}, "out")[0]
    assert "refuses ranks above 512" in consumer_notes({**config, "r": 513}, "out")[0]
    assert "llama.cpp" in consumer_notes({**config, "r": 16}, "out")[0]
    assert "Ollama" in consumer_notes({**config, "lora_alpha": 11.2}, "out")[-1]
    assert "refuse DoRA" in consumer_notes({**config, "use_dora": True}, "out")[0]


def test_dora_on_one_half_of_a_joined_layer_is_refused(tmp_path):
    with pytest.raises(DpoError, match=r"adapts only one of mlp.gate_proj and mlp.up_proj"):
        exported(tmp_path, "granite", "dora", of_layers("mlp.gate_proj"))


def test_a_layer_that_peft_cannot_adapt_is_refused(tmp_path):
    def change(config, weights):
        weights["model.layers.0.block_sparse_moe.router.layer.lora_a"] = mx.zeros((32, 4))

    with pytest.raises(
        DpoError, match=r"adapts block_sparse_moe.router.layer, for which PEFT has no adapter"
    ):
        exported(tmp_path, "granite", "lora", change)


def read_back(made):
    """What PEFT would read of this export."""
    arrays = {
        n: [None if v is None else np.array(v) for v in (p.a.T, p.b.T, p.m)] for n, p in made.parts.items()
    }
    return {name: Module(*own, scale=made.scale) for name, own in arrays.items()}


QUERY, JOINED = "model.layers.1.self_attn.q_proj", "model.layers.0.shared_mlp.input_linear"
DAMAGES = {
    "a transposed A": (QUERY, lambda m: m._replace(a=m.a.T), f"{QUERY}.lora_A"),
    "another sign": (QUERY, lambda m: m._replace(b=-m.b), f"{QUERY}.lora_B"),
    "gate and up swapped": (JOINED, lambda m: m._replace(b=np.roll(m.b, 64, 0)), f"{JOINED}.lora_B"),
    "another alpha": (QUERY, lambda m: m._replace(scale=3.0), "lora_alpha / r is 3 instead of 1.5"),
    "no magnitude": (QUERY, lambda m: m._replace(m=None), f"{QUERY}.lora_magnitude_vector"),
    "a missing module": (QUERY, lambda m: None, f"{QUERY} is not adapted"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_proof_names_what_was_read_differently(tmp_path, damage):
    _, _, made = exported(tmp_path, "granite", "dora")
    found = read_back(made)
    assert differences(made, found) == []
    name, change, told = DAMAGES[damage]
    found[name] = change(found[name])
    assert differences(made, {n: one for n, one in found.items() if one}) == [told]


@pytest.fixture
def untrained(tmp_path, models):
    """A fresh adapter on a tiny model, as a run saves it: `untrained("llama")` gives both folders."""

    def make(name):
        base, run = models(name), tmp_path / "run"
        model, config = load_model(base)[0], AdapterConfig(targets=["o_proj"])
        attach(model, config)
        run.mkdir()
        save_adapter_config(model, config, str(base), run)
        save_adapter_weights(model, run)
        return base, run

    return make


def test_a_run_is_exported_with_the_name_of_its_base(tmp_path, untrained, capsys):
    base, run = untrained("llama")
    made = export_peft(ModelConfig(str(base)), run, tmp_path / "out", prove=False)
    files = sorted(file.name for file in made.folder.iterdir())
    assert files == ["adapter_config.json", "adapter_model.safetensors", "made_from.json"]
    assert made.config["base_model_name_or_path"] == str(base)
    assert "--base ORGANISATION/MODEL" in capsys.readouterr().err
    named = export_peft(ModelConfig(str(base)), run, tmp_path / "named", base_name="org/llama", prove=False)
    assert named.config["base_model_name_or_path"] == "org/llama"


def test_an_existing_folder_and_a_full_run_are_refused(tmp_path, untrained):
    base, run = untrained("llama")
    model = ModelConfig(str(base))
    with pytest.raises(DpoError, match="exists already"):
        export_peft(model, run, tmp_path, prove=False)
    config = {"fine_tune_type": "full", "num_layers": -1, "lora_parameters": {}}
    (run / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(DpoError, match="no adapter that PEFT could read") as stop:
        export_peft(model, run, tmp_path / "out", prove=False)
    assert "mlx-dpo export hf" in stop.value.hint


def test_a_quantised_base_needs_the_name_of_the_plain_one(tmp_path, untrained):
    quantised, run = untrained("granite-4bit")
    base = shutil.copytree(quantised, tmp_path / "base")
    with pytest.raises(DpoError, match="is quantised for MLX") as stop:
        export_peft(ModelConfig(str(base)), run, tmp_path / "out", prove=False)
    assert "--base" in stop.value.hint
    (base / "README.md").write_text("---\nlibrary_name: mlx\nbase_model: org/granite\n---\n# A card\n")
    made = export_peft(ModelConfig(str(base)), run, tmp_path / "out", prove=False)
    assert made.config["base_model_name_or_path"] == "org/granite"


def test_without_the_consumer_a_proof_that_was_asked_for_is_an_error(tmp_path, untrained, monkeypatch):
    monkeypatch.setattr(prove_peft_module, "NEEDS", ("a_package_that_nobody_has",))
    base, run = untrained("llama")
    with pytest.raises(DpoError, match="a_package_that_nobody_has is missing"):
        export_peft(ModelConfig(str(base)), run, tmp_path / "out", prove=True)
    assert not (tmp_path / "out").exists()
    assert export_peft(ModelConfig(str(base)), run, tmp_path / "out").proof is None


def test_the_command_exports_a_run_and_refuses_a_folder_of_peft(tmp_path, untrained, outcome):
    base, run = untrained("granite")
    (run / "config.yaml").write_text(f"model: {{path: {base}}}\n")
    command = ["export", "peft", "--run", run, "--no-prove", "--json", "--output"]
    code, out, _ = outcome(*command, "out")
    assert (code, json.loads(out)["rank"], json.loads(out)["alpha"]) == (0, 16, 32)
    assert json.loads(out)["proof"] is None
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()
    code, _, err = outcome("export", "peft", "--run", "out", "--output", "again")
    assert code == 1 and "out: is a PEFT adapter, not a run" in err


NAME = f"base_model.model.{QUERY}"
READ_BACK = {
    "a transposed tensor": (
        lambda t, c: t.update({f"{NAME}.lora_A.weight": t[f"{NAME}.lora_A.weight"].T}),
        f"the tensor {NAME}.lora_A.weight is not what it should be",
    ),
    "a wrong name": (
        lambda t, c: t.update({"x": t.pop(f"{NAME}.lora_B.weight")}),
        f"the tensor {NAME}.lora_B.weight is missing",
    ),
    "a tensor too much": (lambda t, c: t.update(x=mx.zeros(2)), "the tensor x is too much"),
    "a wrong alpha": (lambda t, c: c.update(lora_alpha=24), "the field lora_alpha is not"),
    "a target too few": (
        lambda t, c: c["target_modules"].remove("q_proj"),
        "the field target_modules is not",
    ),
}


@pytest.mark.parametrize("damage", READ_BACK)
def test_damage_to_the_files_is_named_also_where_peft_is_not_installed(tmp_path, damage):
    _, folder, made = exported(tmp_path, "granite", "lora")
    made.check(folder)
    change, told = READ_BACK[damage]
    damage_files(folder, change)
    with pytest.raises(DpoError, match=told):
        made.check(folder)


def damage_files(folder, change):
    """Let `change` alter the tensors and the config of an export."""
    tensors = dict(mx.load(str(folder / "adapter_model.safetensors")))
    config = json.loads((folder / "adapter_config.json").read_text())
    change(tensors, config)
    mx.eval(tensors)
    mx.save_safetensors(str(folder / "adapter_model.safetensors"), tensors)
    (folder / "adapter_config.json").write_text(json.dumps(config))


# The proof itself: these tests run where torch, transformers and PEFT are installed.


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_the_proof_by_peft_passes_and_has_its_figures(tmp_path, bases, kind):
    pytest.importorskip("peft")
    adapter, folder, made = exported(tmp_path, "granite", kind)
    proof = prove_peft(folder, made, adapter, bases("granite"), ROWS_OF_TOKENS)
    assert proof.difference < 1e-5 and proof.noise < 1e-5 < 0.25 < proof.effect
    assert (proof.rows, proof.tokens, proof.same_token) == (2, 10, 1.0)


ROWS_OF_TOKENS = [np.array([5, 9, 30, 41, 7, 19]), np.array([61, 12, 44, 2])]
FILE_DAMAGES = {
    "a transposed tensor": (
        "lora_A",
        lambda t, c: t.update({f"{NAME}.lora_A.weight": t[f"{NAME}.lora_A.weight"].T}),
    ),
    "a wrong name": ("q_proj.lora_B", lambda t, c: t.update({"x": t.pop(f"{NAME}.lora_B.weight")})),
    "a wrong alpha": ("lora_alpha / r is 3", lambda t, c: c.update(lora_alpha=24)),
    "swapped gate and up": (
        f"{JOINED}.lora_B",
        lambda t, c: t.update({f"base_model.model.{JOINED}.lora_B.weight": swapped(t)}),
    ),
    "rsLoRA": ("lora_alpha / r is", lambda t, c: c.update(use_rslora=True)),
    "a target too few": (f"{QUERY} is not adapted", lambda t, c: c["target_modules"].remove("q_proj")),
}


def swapped(tensors):
    return mx.roll(tensors[f"base_model.model.{JOINED}.lora_B.weight"], 64, axis=0)


@pytest.mark.parametrize("damage", FILE_DAMAGES)
def test_damage_to_the_files_is_found_by_the_proof_which_names_the_part(tmp_path, bases, damage):
    pytest.importorskip("peft")
    adapter, folder, made = exported(tmp_path, "granite", "lora")
    told, change = FILE_DAMAGES[damage]
    damage_files(folder, change)
    with pytest.raises(DpoError) as stop:
        prove_peft(folder, made, adapter, bases("granite"), ROWS_OF_TOKENS)
    assert told in stop.value.what, stop.value.what


def test_a_wrong_map_of_names_is_found_by_the_log_probabilities(tmp_path, bases):
    """What was written is what PEFT reads, but it is not the adapter."""
    pytest.importorskip("peft")
    adapter, folder, made = exported(tmp_path, "granite", "lora")
    parts = made.parts | {JOINED: made.parts[JOINED]._replace(b=mx.roll(made.parts[JOINED].b, 64, axis=1))}
    made = made._replace(parts=parts)
    made.write(folder)
    with pytest.raises(DpoError, match="although PEFT has read every tensor as written"):
        prove_peft(folder, made, adapter, bases("granite"), ROWS_OF_TOKENS)


def test_another_base_is_told(tmp_path, bases):
    """A base that transformers reads as another model than mlx_lm."""
    pytest.importorskip("peft")
    adapter, folder, made = exported(tmp_path, "llama", "lora")
    base = shutil.copytree(bases("llama"), tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    with pytest.raises(DpoError, match="also without the adapter"):
        prove_peft(folder, made, adapter, base, ROWS_OF_TOKENS)
