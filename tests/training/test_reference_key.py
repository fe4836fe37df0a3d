"""The reference's key: what changes a score changes it, what does not does not."""

import json
import shutil

import mlx.core as mx
import pytest

from mlx_dpo.config import load_config
from mlx_dpo.data.pair_store import open_pairs
from mlx_dpo.data.row_index import index_rows
from mlx_dpo.forward.pair_logps import COMPLETION, PLAIN
from mlx_dpo.models.adapters import attach, load_adapter
from mlx_dpo.models.load import load_model, load_tokenizer
from mlx_dpo.training import reference as module
from mlx_dpo.training.reference import reference_key

from ..conftest import half_precision
from ..support.mistakes import flip


@pytest.fixture
def scene(tmp_path, models, pair_rows, write_rows):
    """All that a key is made of: `scene(base=folder)` changes one thing."""
    given = {
        "base": models("granite"),
        "rows": pair_rows[:6],
        "length": 128,
        "adapter": None,
        "forward": COMPLETION,
        "config": adapter_config(),
    }

    def key(**changes):
        s = {**given, **changes}
        pairs = open_pairs(
            index_rows(write_rows("rows.jsonl", s["rows"])), load_tokenizer(s["base"]), s["length"]
        )
        policy, _ = load_model(s["base"])
        if s["adapter"]:
            load_adapter(policy, s["adapter"])
        else:
            attach(policy, s["config"])
        return reference_key(policy, s["base"], s["adapter"], pairs, s["forward"])

    return key


def adapter_config(*overrides):
    return load_config(None, ["adapter.rank=4", *overrides]).adapter


def test_a_key_depends_on_contents_not_on_names(scene, models, tmp_path, pair_rows):
    other = shutil.copytree(models("granite"), tmp_path / "another name")
    (other / "README.md").write_text("A model.")
    assert scene(base=other) == scene()
    renamed = [{**row, "id": f"row-{i}", "meta": {"from": "me"}} for i, row in enumerate(pair_rows[:6])]
    assert scene(rows=renamed) == scene()


def test_a_key_does_not_depend_on_what_only_training_does(scene):
    for change in ("adapter.rank=9", "adapter.scale=3", "adapter.layers=2", "adapter.targets=[q_proj]"):
        mx.random.seed(7)
        assert scene(config=adapter_config(change)) == scene()


@pytest.mark.parametrize("kind", ["dora", "full"])
def test_a_key_depends_on_the_kind_of_adapter_where_it_rounds_otherwise(scene, kind, models, tmp_path):
    base = half_precision(models("granite"), tmp_path / "half")
    assert scene(base=base, config=adapter_config(f"adapter.type={kind}")) != scene(base=base)


def test_one_bit_of_one_weight_changes_the_key(scene, models, tmp_path):
    """In the middle of the file, where a few samples would not look."""
    other = shutil.copytree(models("granite"), tmp_path / "other")
    flip(other / "model.safetensors", (other / "model.safetensors").stat().st_size // 2 + 12_345)
    assert scene(base=other) != scene()


BASES = {
    "a weight file more": lambda f: mx.save_safetensors(str(f / "model-2.safetensors"), {}),
    "the model's config": lambda f: change_json(f / "config.json", rms_norm_eps=1e-4),
    "code of its own": lambda f: (f / "model.py").write_text("# other"),
    "another end token": lambda f: change_json(f / "config.json", eos_token_id=[1, 2]),
    "the template": lambda f: change_json(
        f / "tokenizer_config.json",
        chat_template=json.loads((f / "tokenizer_config.json").read_text())["chat_template"]
        + "{% if tools %}tools{% endif %}",
    ),
    "the tokenizer": lambda f: change_json(f / "tokenizer.json", normalizer={"type": "NFC"}),
}


def change_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("change", BASES.values(), ids=BASES.keys())
def test_a_change_of_the_base_changes_the_key(change, scene, models, tmp_path):
    other = shutil.copytree(models("granite"), tmp_path / "other")
    change(other)
    assert scene(base=other) != scene()


def test_data_truncation_and_forward_change_the_key(scene, pair_rows):
    rows = [dict(row) for row in pair_rows[:6]]
    rows[4]["rejected"] += "!"
    keys = [
        scene(),
        scene(rows=rows),
        scene(rows=pair_rows[:5]),
        scene(rows=[*pair_rows[1:6], pair_rows[0]]),
        scene(length=127),
        scene(length=40),
        scene(forward=PLAIN),
    ]
    assert len({json.dumps(key) for key in keys}) == 7


def test_any_change_of_the_starting_adapter_changes_the_key(scene, trained, tmp_path):
    first = trained("granite")
    keys = [scene(adapter=first), scene()]
    other = shutil.copytree(first, tmp_path / "other")
    assert scene(adapter=other) == keys[0]
    path = str(other / "adapters.safetensors")
    weights = mx.load(path)
    name = max(weights)
    weights[name] = weights[name] + 1e-6
    mx.save_safetensors(path, weights)
    keys.append(scene(adapter=other))
    third = shutil.copytree(first, tmp_path / "third")
    content = json.loads((third / "adapter_config.json").read_text())
    content["lora_parameters"]["scale"] = 3.0
    del content["sha256"]
    (third / "adapter_config.json").write_text(json.dumps(content))
    keys.append(scene(adapter=third))
    assert len({json.dumps(key) for key in keys}) == 4


@pytest.mark.parametrize("what", ["mlx", "mlx-lm", "mlx_dpo", "_VERSION"])
def test_other_versions_change_the_key(what, scene, monkeypatch):
    before, version = scene(), module.version
    monkeypatch.setattr(module, "version", lambda name: "0.0" if name == what else version(name))
    if what == "mlx_dpo":
        monkeypatch.setattr(module, "__version__", "0.0")
    if what == "_VERSION":
        monkeypatch.setattr(module, "_VERSION", 0)
    assert scene() != before
