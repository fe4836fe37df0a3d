"""A GGUF file below float32 is written only if it behaves like the adapter."""

import json
from importlib.util import find_spec

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

import mlx_dpo
from mlx_dpo.config import load_config
from mlx_dpo.errors import DpoError
from mlx_dpo.export.fuse_report import check_like
from mlx_dpo.export.gguf import export_gguf
from mlx_dpo.export.gguf_likeness import likeness_in_llama_cpp, likeness_in_mlx, remedy, round_weights
from mlx_dpo.export.likeness import Likeness, run_yardstick
from mlx_dpo.models.load import load_model
from mlx_dpo.settings import as_plain, to_yaml

from ..conftest import half_precision
from ..support.export_content import content_of, made, source_of
from ..support.mistakes import lines
from ..support.planted import planted, random_rows

needs_gguf = pytest.mark.skipif(find_spec("gguf") is None, reason="the package gguf is not installed")
needs_llama_cpp = pytest.mark.skipif(
    find_spec("gguf") is None or find_spec("xllamacpp") is None, reason="xllamacpp is not installed"
)


def checked(likeness):
    return check_like(likeness, 0.1, "run", "the q8_0 GGUF file", "give --type f16")


def test_a_file_that_is_not_like_the_adapter_is_refused_with_figures_and_a_remedy():
    with pytest.raises(DpoError) as told:
        checked(Likeness(0.02, 0.005, 0.9, 16))
    assert told.value.code == "not-like-the-adapter"
    for part in ("the q8_0 GGUF file does not behave like the adapter", "KL ratio 0.25", "0.1 is allowed"):
        assert part in told.value.what
    assert "KL(adapter || export) 0.005, KL(adapter || base) 0.02" in told.value.what
    assert "give --type f16" in told.value.hint and "--max-kl-ratio 0.28" in told.value.hint
    with pytest.raises(DpoError, match="the training is lost") as told:
        checked(Likeness(0.02, 0.02, 0.9, 16))
    assert told.value.code == "equals-the-base"
    with pytest.raises(DpoError, match="KL ratio nan"):
        checked(Likeness(0.02, float("nan"), 0.9, 16))


def test_float32_is_the_remedy_only_where_the_fused_weights_are_float32():
    for type in ("f16", "bf16", "q8_0"):
        assert "f32" in remedy(type, rounded=False)
    for type in ("f32", "f16", "bf16", "q8_0"):
        told = remedy(type, rounded=True)
        assert "f32" not in told and "use the adapter without fusing: mlx-dpo export gguf --lora" in told
        assert "--type " + type not in told


def test_a_file_that_is_like_the_adapter_has_its_figures():
    told = checked(Likeness(0.02, 0.0004, 1.0, 16))
    assert told == "KL ratio 0.02, top-1 100 % over 16 answer tokens"


@needs_gguf
@pytest.mark.parametrize(("type", "relative"), [("f16", 0), ("bf16", 0), ("q8_0", 2**-11)])
def test_weights_are_rounded_to_what_the_file_holds(tmp_path, type, relative):
    """Float16 holds the values of q8_0, which have up to 19 bits, with a rounding of their own."""
    from gguf import GGMLQuantizationType, quants

    from mlx_dpo.export.gguf_file import stored, type_of

    source = source_of(*made(tmp_path, "hybrid-moe"))
    content = content_of(source, type)
    held = {
        t.name: quants.dequantize(stored(t, type), GGMLQuantizationType[type_of(t, type).name])
        for t in content.tensors
    }
    round_weights(source.fused.model, type)
    again = source._replace(tensors=type_tensors(source))
    for tensor in content_of(again, type).tensors:
        values = held[tensor.name].reshape(tensor.shape)
        np.testing.assert_allclose(tensor.make(), values, rtol=relative, atol=6e-8, err_msg=tensor.name)


def type_tensors(source):
    """The tensors of the model as it is now, in the Hub's layout."""
    from mlx.utils import tree_flatten

    from mlx_dpo.export.hub_layout import HubTensors

    parameters = dict(tree_flatten(source.fused.model.parameters()))
    return HubTensors(str(source.config["model_type"]), parameters)


LOST = "not-like-the-adapter"


@pytest.fixture(scope="module")
def run(tmp_path_factory, models, pair_rows):
    """A run whose adapter changes every layer by 1 %, about a step of q8_0."""
    return small_run(models("llama"), tmp_path_factory.mktemp("small") / "run", 0.01, pair_rows)


def small_run(base, folder, share, pair_rows):
    planted(base, folder, share)
    (folder / "rows.jsonl").write_text(lines(*pair_rows[:3]))
    settings = [f"model.path={base}", f"data.train={folder / 'rows.jsonl'}", "data.valid=null"]
    (folder / "config.yaml").write_text(to_yaml(as_plain(load_config(None, settings))))
    return folder


@pytest.fixture(scope="module")
def half_run(tmp_path_factory, models, pair_rows):
    """A run on a bfloat16 base whose adapter changes every layer by 0.5 %, about half a grid step."""
    place = tmp_path_factory.mktemp("half")
    return small_run(half_precision(models("llama"), place / "base"), place / "run", 0.005, pair_rows)


@needs_gguf
def test_a_type_that_loses_the_training_is_refused_and_nothing_is_left(run, refused_at, tmp_path):
    command = f"export gguf --no-prove --run {run} --output out --type q8_0"
    refused_at(command, str(run), "the q8_0 GGUF file", "--type f16 or f32", "not-like-the-adapter")
    assert list(tmp_path.iterdir()) == []


@needs_gguf
def test_a_finer_type_is_written_with_its_figures(run, outcome):
    command = ("export", "gguf", "--no-prove", "--run", run, "--output", "out", "--json")
    code, out, err = outcome(*command)
    told = json.loads(out)
    assert code == 0, err
    assert told["kl_ratio"] == told["kl_ratio_base"] < 0.01 and told["kl_ratio_start"] is None
    assert told["compared"].startswith("KL ratio ")


@needs_gguf
def test_the_limit_can_be_raised(run, outcome):
    command = ("export", "gguf", "--no-prove", "--run", run, "--output", "out", "--type", "q8_0")
    code, out, _ = outcome(*command, "--max-kl-ratio", "100")
    assert code == 0 and "compared with the adapter: KL ratio " in out


@needs_gguf
@pytest.mark.parametrize("type", ["f32", "f16", "bf16", "q8_0"])
def test_no_type_hides_that_a_half_precision_base_rounds_the_training_away(
    half_run, type, refused_at, tmp_path
):
    """The fused weights themselves are bfloat16, so that f32 would store rounded sums exactly."""
    command = f"export gguf --no-prove --run {half_run} --output out --type {type}"
    refused_at(command, str(half_run), f"the {type} GGUF file", "mlx-dpo export gguf --lora", LOST)
    assert list(tmp_path.iterdir()) == []


def test_a_hub_folder_of_a_half_precision_base_that_loses_the_training_is_refused(
    half_run, refused_at, outcome, tmp_path
):
    command = f"export hf --no-prove --run {half_run} --output out"
    refused_at(command, str(half_run), "the exported model", "mlx-dpo export peft", LOST)
    assert list(tmp_path.iterdir()) == []
    code, out, err = outcome(*command.split(), "--max-kl-ratio", "100")
    assert code == 0 and "compared with the adapter: KL ratio " in out, err


def test_a_limit_that_nothing_passes_is_refused_before_slow_work(run, tmp_path):
    for kind in ("hf", "gguf"):
        with pytest.raises(DpoError, match="must be above 0") as told:
            mlx_dpo.export(run.parent / "no run", kind, tmp_path / "out", max_kl_ratio=0)
        assert told.value.where == "max_kl_ratio"


@pytest.mark.parametrize(
    "given", ["--type f32", "--system Hello", "--prove", "--no-prove", "--max-kl-ratio 0.1"]
)
def test_options_that_an_adapter_alone_does_not_have_are_refused(run, given, outcome):
    command = f"export gguf --lora --run {run} --output out {given}"
    code, _, told = outcome(*command.split())
    assert code == 2 and "cannot be used with --lora" in told


@needs_gguf
def test_float32_of_a_float32_base_is_not_compared(run, outcome):
    code, out, _ = outcome(
        "export", "gguf", "--no-prove", "--run", run, "--output", "out", "--type", "f32", "--json"
    )
    assert code == 0 and "kl_ratio" not in json.loads(out)


@needs_llama_cpp
def test_mlx_measures_what_llama_cpp_measures(tmp_path):
    """llama.cpp rounds the numbers that go into a product too, so its file is a little further away."""
    base, adapter = made(tmp_path, "llama")
    yardstick = run_yardstick(base, adapter, random_rows(2, answer=6))
    for type in ("f16", "q8_0"):
        file = export_gguf(str(base), adapter, tmp_path / type, type)
        there = likeness_in_llama_cpp(file, yardstick)
        here = likeness_in_mlx(source_of(base, adapter).fused.model, type, yardstick)
        assert here.to_base == there.to_base and here.positions == there.positions == 12
        assert here.to_fused / 2 < there.to_fused < here.to_fused * 4


@needs_gguf
def test_weights_are_rounded_without_a_second_copy_of_the_model(models):
    model, _ = load_model(models("llama"))
    mx.eval(model.parameters())
    sizes = [value.nbytes for _, value in tree_flatten(model.parameters())]
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    round_weights(model, "bf16")
    assert mx.get_peak_memory() - before < 2 * max(sizes) < sum(sizes) / 2
