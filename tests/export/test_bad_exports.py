"""What fuse and every export refuse: before weights are loaded, with one line, and nothing is written."""

import json
import shutil
from importlib.util import find_spec
from tempfile import gettempdir
from types import SimpleNamespace

import mlx.core as mx
import pytest

from mlx_dpo.demo.family_models import make_adapter
from mlx_dpo.models.base_of_adapter import base_sums
from mlx_dpo.models.load import load_tokenizer

from ..support.mistakes import changed, edit, files_end_at, lines

WRITERS = {
    "fuse": "fuse --run run",
    "peft": "export peft --run run --no-prove",
    "hf": "export hf --run run --no-prove",
    "gguf": "export gguf --run run --no-prove --type f32",
    "gguf --lora": "export gguf --run run --lora",
}
OF_WEIGHTS = ["fuse", "hf", "gguf"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, models, pair_rows):
    """A run's folder by its base: what fuse and export read of it."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "rows.jsonl").write_text(lines(*pair_rows[:2]))

    def get(name):
        run, base = folder / name, models(name)
        if not run.exists():
            make_adapter(base, run, sums=base_sums(base, load_tokenizer(base)))
            data = {"train": str(folder / "rows.jsonl"), "valid": None}
            (run / "config.yaml").write_text(json.dumps({"model": {"path": str(base)}, "data": data}))
        return run

    return get


@pytest.fixture
def run(tmp_path, runs):
    """A copy of the Llama's run, which a test may damage."""
    return shutil.copytree(runs("llama"), tmp_path / "run")


@pytest.fixture
def refused_early(refused_at, models):
    """As `refused_at`; and the weights of the base were not in memory."""
    size = (models("llama") / "model.safetensors").stat().st_size

    def check(*told):
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        refused_at(*told)
        assert mx.get_peak_memory() - before < size / 2

    return check


def each(*names):
    """Parametrize by these writers; those of GGUF need its package."""
    needs = pytest.mark.skipif(find_spec("gguf") is None, reason="the package gguf is not installed")
    return pytest.mark.parametrize(
        "writer",
        [pytest.param(WRITERS[name], marks=needs if "gguf" in name else (), id=name) for name in names],
    )


every = each(*WRITERS)


def forget_base(run):
    """Make the adapter one that does not say what it was trained on, as other programs write theirs."""
    edit(run / "adapter_config.json", base_sha256=..., sha256=...)


@every
def test_a_target_that_exists_is_refused(writer, run, refused_early, tmp_path):
    (tmp_path / "there").mkdir()
    refused_early(f"{writer} --output there", "there", "exists already", "--output", "exists")


@every
def test_a_target_that_is_a_link_to_nothing_is_refused(writer, run, refused_early, tmp_path):
    (tmp_path / "there").symlink_to("nowhere")
    refused_early(f"{writer} --output there", "there", "exists already", "--output", "exists")


@each("gguf")
@pytest.mark.parametrize("text", ['a"""b', 'yes"'])
def test_a_system_prompt_that_a_modelfile_cannot_hold_is_refused(writer, text, run, refused_early):
    told = "three double quotes in a row, or one at the end"
    refused_early(f"{writer} --output out --system {text}", "--system", told, "single quotes")


@every
def test_an_output_inside_a_file_is_refused(writer, run, refused_early, tmp_path):
    (tmp_path / "file").write_text("mine")
    refused_early(f"{writer} --output file/out", "file/out", f"{tmp_path}/file is a file", "output folder")


@every
def test_an_adapter_of_another_base_is_refused(writer, run, refused_early, models):
    changed("config.yaml", str(models("llama")), str(models("qwen3")))(run)
    told = f"is not the model that run was trained on ({models('llama')})"
    refused_early(f"{writer} --output out", str(models("qwen3")), told, "--model")


@every
def test_an_adapter_that_does_not_fit_is_refused(writer, run, refused_early, models):
    """It does not say of which base it is."""
    forget_base(run)
    changed("config.yaml", str(models("llama")), str(models("granite")))(run)
    told = "this adapter does not fit the model: model.layers.0.mlp.down_proj.lora_a"
    refused_early(f"{writer} --output out", "run", told, str(models("llama")))


@every
def test_an_adapter_with_an_unknown_tensor_is_refused(writer, run, refused_early):
    forget_base(run)
    weights = dict(mx.load(str(run / "adapters.safetensors")))
    more = {"model.layers.0.mlp.side_proj.lora_a": mx.zeros((64, 4))}
    mx.save_safetensors(str(run / "adapters.safetensors"), weights | more)
    told = "does not fit the model: model.layers.0.mlp.side_proj.lora_a"
    refused_early(f"{writer} --output out", "run", told, "trained on")


@every
def test_an_adapter_with_numbers_that_are_not_finite_is_refused(writer, run, refused_early):
    forget_base(run)
    weights = dict(mx.load(str(run / "adapters.safetensors")))
    name = min(weights)
    mx.save_safetensors(str(run / "adapters.safetensors"), weights | {name: weights[name] * mx.nan})
    refused_early(f"{writer} --output out", f"run: {name}", "not finite", "learning_rate")


@each(*OF_WEIGHTS)
def test_a_base_with_an_unknown_tensor_is_refused(writer, run, refused_early, models, tmp_path):
    forget_base(run)
    base = shutil.copytree(models("llama"), tmp_path / "base")
    weights = dict(mx.load(str(base / "model.safetensors")))
    more = {"model.layers.0.side.weight": mx.zeros((4,))}
    mx.save_safetensors(str(base / "model.safetensors"), weights | more, metadata={"format": "mlx"})
    changed("config.yaml", str(models("llama")), str(base))(run)
    told = "1 parameters not in model: model.layers.0.side.weight"
    refused_early(f"{writer} --output out", str(base), told, "mlx_lm must support the architecture")


def test_peft_needs_the_name_of_the_model_before_quantisation(runs, refused_early, models, tmp_path):
    shutil.copytree(runs("llama-4bit"), tmp_path / "run")
    told = "is quantised for MLX, and other programs cannot load it"
    refused_early(f"{WRITERS['peft']} --output out", str(models("llama-4bit")), told, "--base")


def test_the_original_of_a_quantised_base_must_not_be_quantised(runs, refused_early, models, tmp_path):
    shutil.copytree(runs("llama-4bit"), tmp_path / "run")
    quantised = models("llama-4bit")
    command = f"{WRITERS['fuse']} --output out --base {quantised}"
    refused_early(command, str(quantised), "is quantised itself", "the unquantised model")


def test_a_plain_base_has_no_original(run, refused_early, models):
    command = f"{WRITERS['fuse']} --output out --base {models('llama')}"
    refused_early(command, str(models("llama")), "is not quantised, so it has no original", "--base")


@pytest.fixture
def free(monkeypatch):
    """`free(n)`: the disk has room for n bytes."""

    def set_to(count):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=count))

    return set_to


@every
def test_a_disk_without_room_is_refused(writer, run, refused_early, free):
    free(10_000)
    refused_early(f"{writer} --output out", "out", "the disk has 0.00 GB left", "another disk")


@every
def test_as_much_room_is_asked_for_as_is_written(writer, run, outcome, refused_early, free, tmp_path):
    assert outcome(*writer.split(), "--output", "out")[0] == 0
    written = sum(file.stat().st_size for file in (tmp_path / "out").iterdir())
    free(2 * written)
    assert outcome(*writer.split(), "--output", "again")[0] == 0
    free(written // 2)
    refused_early(f"{writer} --output never", "never", "GB left", "another disk")


@pytest.mark.parametrize("bits", ["plain", "4", "8"])
def test_the_room_for_a_fused_model_depends_on_its_precision(
    bits, run, outcome, refused_early, free, tmp_path
):
    words = f"{WRITERS['fuse']} --precision {bits} --max-kl-ratio 100 --output"
    assert outcome(*words.split(), "out")[0] == 0
    written = sum(file.stat().st_size for file in (tmp_path / "out").iterdir())
    free(written // 2)
    refused_early(f"{words} never", "never", "GB left", "another disk")


def test_logits_that_find_no_room_are_refused_before_the_model_is_loaded(run, refused_early, monkeypatch):
    def disk_usage(path):
        return SimpleNamespace(free=10_000 if str(path) == gettempdir() else 10**9)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    refused_early(f"{WRITERS['fuse']} --output out", gettempdir(), "the disk has 0.00 GB left", "set TMPDIR")


@each("peft", "hf", "gguf", "gguf --lora")
def test_a_disk_that_fills_leaves_no_half_export(writer, run, mistake, tmp_path):
    with files_end_at(40_000):
        error = mistake(f"{writer} --output out")
    assert error.where == "out" and "free some space" in error.hint
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
