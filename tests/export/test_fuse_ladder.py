"""Only a fused model that behaves like the adapter is written, and the smallest such."""

import json
import shutil
from functools import cache

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from mlx_dpo.errors import DpoError
from mlx_dpo.export.fuse import fuse_run
from mlx_dpo.export.grids import grids_of
from mlx_dpo.export.likeness import FLOOR, Yardstick
from mlx_dpo.models.adapters import load_adapter
from mlx_dpo.models.load import load_model

from ..conftest import half_precision, some
from ..support.planted import planted, random_rows

ROWS = random_rows()


def report_of(folder):
    return json.loads((folder / "likeness.json").read_text())


@pytest.fixture(scope="module")
def runs(tmp_path_factory, models):
    """A run by model and share: its adapter changes each linear layer by that share of the weights' norm."""
    folder = tmp_path_factory.mktemp("planted")

    def get(model, share):
        run = folder / f"{model}-{share}"
        return models(model), run if run.exists() else planted(models(model), run, share)

    return get


@pytest.fixture
def fuse(tmp_path, runs):
    """Fuse a planted run; the report of the folder `fused`."""

    def run(model, share, precision, **more):
        base, adapter = runs(model, share)
        fuse_run(str(base), adapter, tmp_path / "fused", precision=precision, rows=ROWS, **more)
        return report_of(tmp_path / "fused")

    return run


@pytest.fixture(scope="module")
def ladder(tmp_path_factory, runs):
    """The rungs that `auto` measures if hardly anything passes."""

    @cache
    def climbed(model, share):
        base, adapter = runs(model, share)
        output = tmp_path_factory.mktemp("ladder") / "fused"
        fuse_run(str(base), adapter, output, precision="auto", rows=ROWS, max_kl_ratio=1e-7)
        return report_of(output)["ladder"]

    return climbed


PLANTED = {
    f"{model} {share}": (model, share)
    for model in ("llama-4bit", "granite-4bit")
    for share in (0.005, 0.02, 0.05, 0.14)
}
PASS = {
    "llama-4bit 0.005": set(),
    "llama-4bit 0.02": {"8"},
    "llama-4bit 0.05": {"8"},
    "llama-4bit 0.14": {"6", "8"},
    "granite-4bit 0.005": {"8"},
    "granite-4bit 0.02": {"8"},
    "granite-4bit 0.05": {"8"},
    "granite-4bit 0.14": {"6", "8"},
}
"""Uniform precisions by model and share. KL(adapter || base) of Granite at 0.005 is below the floor."""


@pytest.mark.parametrize("case", some(PLANTED, "llama-4bit 0.02", "granite-4bit 0.05"))
def test_a_planted_change_passes_at_these_precisions(ladder, case):
    rungs = {rung["precision"]: rung for rung in ladder(*PLANTED[case]) if rung["precision"] in "468"}
    assert {name for name, rung in rungs.items() if rung["kl_ratio"] <= 0.1} == PASS[case]
    for rung in rungs.values():
        assert rung["kl_ratio"] == rung["kl_adapter_fused"] / max(rung["kl_adapter_base"], FLOOR)


def test_noise_and_not_the_kept_fraction_tells_what_is_lost(ladder):
    """At 6 bits 99 % of a change of 2 % is there, under noise of the same size; at 8 bits noise² is 0.05."""
    four, six, eight = (next(r for r in ladder("llama-4bit", 0.02) if r["precision"] == n) for n in "468")
    assert four["kept"] == pytest.approx(0.15, abs=0.05) and four["kl_ratio"] > 1
    assert six["kept"] == pytest.approx(0.98, abs=0.03)
    assert six["noise"] == pytest.approx(0.96, abs=0.1) and six["kl_ratio"] > 0.6
    assert eight["noise"] == pytest.approx(0.23, abs=0.03) and eight["kl_ratio"] < 0.1


def test_rungs_are_measured_from_the_smallest(ladder):
    sizes = [rung["bytes"] for rung in ladder("llama-4bit", 0.02)]
    assert sizes == sorted(sizes) and len(sizes) > 3


def test_a_precision_that_loses_the_change_is_refused_and_nothing_is_written(fuse, tmp_path):
    """The steps of 4 bits are wider than a change of 5 %: weights fall back to where they were."""
    with pytest.raises(DpoError) as told:
        fuse("llama-4bit", 0.05, "4")
    assert told.value.code == "equals-the-base"
    for word in ("at 4 bits the training is lost", "KL ratio", "top-1", "kept", "noise"):
        assert word in told.value.what
    assert "--precision auto" in told.value.hint and "--max-kl-ratio" in told.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_precision_that_is_not_like_the_adapter_is_refused_with_another_code(fuse):
    with pytest.raises(DpoError, match="does not behave like the adapter") as told:
        fuse("llama-4bit", 0.14, "4")
    assert told.value.code == "not-like-the-adapter"


def test_auto_tells_of_each_rung_and_writes_the_first_that_passes(fuse, tmp_path, capsys):
    report = fuse("llama-4bit", 0.14, "auto")
    names = [rung["precision"] for rung in report["ladder"]]
    assert (names[0], names[-1]) == ("4", report["precision"])
    assert [rung["kl_ratio"] <= 0.1 for rung in report["ladder"]] == [*[False] * (len(names) - 1), True]
    told = capsys.readouterr().err.splitlines()
    assert any(line.startswith(f"the first of {len(names)} models that passes") for line in told)
    assert [line.split()[0] for line in told if line.endswith(("above 0.1", "passes"))] == names
    stored = sum(a.nbytes for a in mx.load(str(tmp_path / "fused" / "model.safetensors")).values())
    assert report["bytes"] == stored


@pytest.mark.parametrize("model", some(["llama-4bit", "granite-4bit"], "granite-4bit"))
def test_a_mixed_model_loads_in_mlx_lm_and_is_as_near_to_the_adapter_as_measured(fuse, runs, tmp_path, model):
    from mlx_lm import load

    report = fuse(model, 0.05, "mixed")
    assert report["precision"] == "mixed"
    bits = {path: layer["bits"] for path, layer in report["layers"].items()}
    assert set(bits.values()) <= {4, 8, None} and len(set(bits.values())) > 1
    fused, _ = load(str(tmp_path / "fused"))  # as a user of mlx_lm would
    assert {path: grid.bits for path, grid in grids_of(fused).items() if path in bits} == {
        path: own for path, own in bits.items() if own
    }
    base, run = runs(model, 0.05)
    yardstick, before = Yardstick(ROWS), load_model(base)[0]
    yardstick.see_base(before)
    load_adapter(before, run)
    yardstick.see_adapter(before)
    again = yardstick.likeness(fused)
    assert (again.ratio, again.top_1) == (pytest.approx(report["kl_ratio"], rel=1e-3), report["top_1"])


def test_layers_that_were_not_trained_keep_their_codes(fuse, runs, tmp_path):
    fuse("granite-4bit", 0.05, "8")
    base, fused = (
        mx.load(str(f / "model.safetensors")) for f in (runs("granite-4bit", 0.05)[0], tmp_path / "fused")
    )
    assert mx.array_equal(base["model.embed_tokens.weight"], fused["model.embed_tokens.weight"])
    assert base.keys() == fused.keys()
    trained = {f"{path}." for path in report_of(tmp_path / "fused")["layers"]}
    others = [name for name in base if not name.startswith(tuple(trained))]
    assert len(others) > 10 and all(mx.array_equal(base[name], fused[name]) for name in others)


def test_an_adapter_that_does_nothing_is_told_and_fused(fuse, tmp_path, capsys):
    report = fuse("llama-4bit", 0.0, "auto")
    assert "WARNING: the adapter itself hardly changes the model" in capsys.readouterr().err
    assert (report["kl_adapter_base"], report["kept"], report["noise"]) == (0, None, None)
    assert report["kl_adapter_fused"] <= 0.1 * FLOOR


def test_in_half_precision_the_kept_fraction_is_told_too(models, tmp_path):
    """Rounding by chance keeps the mean of a change of 0.5 %, which is about a step; the noise stays."""
    base = half_precision(models("llama"), tmp_path / "base")
    run = planted(base, tmp_path / "run", 0.005)
    fuse_run(str(base), run, tmp_path / "fused", rows=ROWS, max_kl_ratio=2)
    report = report_of(tmp_path / "fused")
    assert report["kept"] == pytest.approx(1, abs=0.03)
    assert 0.1 < report["noise"] < 1
    assert report["bits"] == 16


def test_full_training_is_measured_too(models, tmp_path):
    """Against weights of the base that are read from its files again."""
    base = half_precision(models("granite"), tmp_path / "base")
    run = tmp_path / "run"
    run.mkdir()
    moved = {}
    for name, value in tree_flatten(load_model(base)[0].parameters()):
        if ".layers." in name:
            change = 0.02 * mx.abs(value.astype(mx.float32)).mean() * mx.random.normal(value.shape)
            moved[name] = value.astype(mx.float32) + change
    mx.save_safetensors(str(run / "adapters.safetensors"), moved, metadata={"format": "mlx"})
    (run / "adapter_config.json").write_text(json.dumps({"fine_tune_type": "full", "num_layers": -1}))
    fuse_run(str(base), run, tmp_path / "fused", rows=ROWS)
    report = report_of(tmp_path / "fused")
    assert report["kept"] == pytest.approx(1, abs=0.01)
    assert report["kl_ratio"] < 0.1 and "model.layers.0.mamba.A_log" in report["layers"]
    loaded = load_model(tmp_path / "fused")[0]
    assert {v.dtype for _, v in tree_flatten(loaded.parameters())} == {mx.bfloat16}


def test_dora_is_fused_into_8_bits(models, tmp_path):
    run = planted(models("llama-4bit"), tmp_path / "run", 0.05, kind="dora")
    fuse_run(str(models("llama-4bit")), run, tmp_path / "fused", precision="8", rows=ROWS)
    assert report_of(tmp_path / "fused")["kept"] == pytest.approx(1, abs=0.02)


def test_an_unquantised_base_is_quantised_once_if_asked(models, tmp_path):
    run = planted(models("qwen3"), tmp_path / "run", 0.05)
    fuse_run(str(models("qwen3")), run, tmp_path / "fused", precision="8", rows=ROWS)
    fused, _ = load_model(tmp_path / "fused")
    assert {grid.bits for grid in grids_of(fused).values()} == {8}
    assert {"model.embed_tokens", "lm_head"} <= grids_of(fused).keys()


class TestOriginal:
    """`--base`: the adapter of a 4-bit base is added to the weights from which that base was made."""

    def test_its_weights_are_rounded_once(self, models, runs, tmp_path):
        base, run = runs("llama-4bit", 0.05)
        fuse_run(
            str(base),
            run,
            tmp_path / "fused",
            precision="4",
            rows=ROWS,
            original=str(models("llama")),
            max_kl_ratio=99,
        )
        report = report_of(tmp_path / "fused")
        assert report["kept"] == pytest.approx(1, abs=0.05)  # into the 4-bit base: 0.34
        assert grids_of(load_model(tmp_path / "fused")[0]) == grids_of(load_model(base)[0])

    def test_another_model_is_refused(self, models, runs, tmp_path):
        base, run = runs("llama-4bit", 0.05)
        other = shutil.copytree(models("llama"), tmp_path / "other")
        weights = mx.load(str(other / "model.safetensors"))
        moved = {n: mx.random.normal(w.shape) if w.ndim > 1 else w for n, w in weights.items()}
        mx.save_safetensors(str(other / "model.safetensors"), moved, metadata={"format": "mlx"})
        for original, words in (
            (other, "have a cosine of"),
            (models("granite"), "is of the shape"),
            (base, "is quantised itself"),
        ):
            with pytest.raises(DpoError, match=words):
                fuse_run(str(base), run, tmp_path / "fused", rows=ROWS, original=str(original))

    def test_a_plain_base_has_none(self, models, tmp_path):
        run = planted(models("llama"), tmp_path / "run", 0.05)
        with pytest.raises(DpoError, match="is not quantised, so it has no original"):
            fuse_run(
                str(models("llama")), run, tmp_path / "fused", rows=ROWS, original=str(models("granite"))
            )


@pytest.mark.parametrize(("precision", "ratio"), [("5", 0.1), ("auto", 0.0), ("auto", float("nan"))])
def test_a_choice_that_makes_no_sense_is_refused_at_once(tmp_path, precision, ratio):
    with pytest.raises(DpoError, match=r"cannot be|must be above 0"):
        fuse_run("nowhere", "nowhere", tmp_path / "fused", precision=precision, max_kl_ratio=ratio)


def test_a_run_that_diverged_is_not_compared(fuse, runs, models, tmp_path):
    base, run = models("llama-4bit"), shutil.copytree(runs("llama-4bit", 0.05)[1], tmp_path / "run")
    weights = mx.load(str(run / "adapters.safetensors"))
    weights = {n: w * float("nan") for n, w in weights.items()}
    mx.save_safetensors(str(run / "adapters.safetensors"), weights, metadata={"format": "mlx"})
    with pytest.raises(DpoError, match="are not finite"):
        fuse_run(str(base), run, tmp_path / "fused", precision="auto", rows=ROWS)
