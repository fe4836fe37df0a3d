"""A run that began from an adapter: what the run itself has changed must be in the fused model too."""

import json
import shutil

import mlx.core as mx
import pytest

from mlx_dpo.config import load_config
from mlx_dpo.errors import DpoError
from mlx_dpo.export.fuse import fuse_run
from mlx_dpo.export.likeness import FLOOR, Likeness
from mlx_dpo.jobs.fuse import fuse_folder
from mlx_dpo.settings import as_plain, to_yaml

from ..support.mistakes import lines
from ..support.planted import planted, random_rows

ROWS = random_rows()


def moved(start, to, share):
    """An adapter that DPO has moved a little from the adapter `start`."""
    shutil.copytree(start, to)
    weights = dict(mx.load(str(start / "adapters.safetensors")))
    for number, (name, value) in enumerate(sorted(weights.items())):
        if name.endswith("lora_b"):
            noise = mx.random.normal(value.shape, key=mx.random.key(number))
            weights[name] = value + share * mx.linalg.norm(value) / mx.linalg.norm(noise) * noise
    mx.save_safetensors(str(to / "adapters.safetensors"), weights, metadata={"format": "mlx"})
    return to


@pytest.fixture(scope="module")
def sft(tmp_path_factory, models):
    return planted(models("llama-4bit"), tmp_path_factory.mktemp("start") / "sft", 0.14)


@pytest.fixture(scope="module")
def dpo(tmp_path_factory, sft):
    return moved(sft, tmp_path_factory.mktemp("moved") / "dpo", 0.1)


def fuse(models, run, output, start=None, precision="6"):
    fuse_run(str(models("llama-4bit")), run, output, precision=precision, rows=ROWS, start=start)
    return json.loads((output / "likeness.json").read_text())


def test_the_limit_holds_for_the_larger_ratio():
    both = Likeness(0.02, 0.001, 1.0, 9, to_start=0.004)
    assert (both.ratio_to_base, both.ratio_to_start, both.ratio) == pytest.approx((0.05, 0.25, 0.25))
    assert Likeness(0.02, 0.001, 1.0, 9).ratio_to_start is None
    assert Likeness(0.02, 0.001, 1.0, 9, to_start=FLOOR / 2).ratio == pytest.approx(0.05)


def test_a_fuse_that_keeps_sft_and_loses_dpo_is_refused(models, sft, dpo, tmp_path, capsys):
    alone = fuse(models, dpo, tmp_path / "alone")
    assert alone["kl_ratio"] < 0.1 and alone["kl_ratio_start"] is None
    with pytest.raises(DpoError, match="KL\\(adapter \\|\\| start\\)") as told:
        fuse(models, dpo, tmp_path / "fused", start=str(sft))
    assert told.value.code == "equals-the-start"
    assert "what this run has trained is lost" in told.value.what
    assert not (tmp_path / "fused").exists()


def test_a_fuse_that_keeps_both_has_both_ratios(models, sft, dpo, tmp_path, capsys):
    report = fuse(models, dpo, tmp_path / "fused", start=str(sft), precision="plain")
    assert report["kl_ratio"] == report["kl_ratio_start"] > report["kl_ratio_base"]
    assert report["kl_adapter_start"] < report["kl_adapter_base"] / 10
    assert "the adapter that the run began from" in capsys.readouterr().err


def test_a_run_that_does_nothing_beyond_its_start_is_compared_with_the_base(models, sft, tmp_path, capsys):
    report = fuse(models, sft, tmp_path / "fused", start=str(sft))
    assert (report["kl_adapter_start"], report["kl_ratio_start"]) == (0, None)
    assert report["kl_ratio"] == report["kl_ratio_base"] < 0.1
    assert "WARNING: the run hardly changed the adapter that it began from" in capsys.readouterr().err


@pytest.fixture
def run(models, sft, dpo, pair_rows, tmp_path):
    """The folder of a run that began from the SFT adapter, which is a copy."""
    folder, start = shutil.copytree(dpo, tmp_path / "run"), shutil.copytree(sft, tmp_path / "sft")
    (folder / "rows.jsonl").write_text(lines(*pair_rows[:3]))
    settings = [f"model.path={models('llama-4bit')}", f"model.adapter={start}"]
    settings += [f"data.train={folder / 'rows.jsonl'}", "data.valid=null"]
    (folder / "config.yaml").write_text(to_yaml(as_plain(load_config(None, settings))))
    return folder


def test_fuse_finds_the_start_in_the_settings_of_the_run(run, tmp_path):
    report = json.loads((fuse_folder(run, tmp_path / "fused") / "likeness.json").read_text())
    assert report["kl_ratio"] == report["kl_ratio_start"] <= 0.1
    assert [rung["precision"] for rung in report["ladder"]][:1] == ["4"]


def test_a_start_that_is_gone_is_told(run, tmp_path, capsys):
    shutil.rmtree(tmp_path / "sft")
    report = json.loads((fuse_folder(run, tmp_path / "fused") / "likeness.json").read_text())
    assert report["kl_ratio_start"] is None
    told = capsys.readouterr().err
    assert f"began from the adapter {tmp_path / 'sft'}, which cannot be read" in told
