"""A run folder that an earlier version wrote resumes, evaluates, fuses and reports."""

import shutil

import mlx.core as mx
import numpy as np
import pytest

from mlx_dpo.config import load_config
from mlx_dpo.export.fuse import fuse_run
from mlx_dpo.jobs.evaluate import evaluate_run
from mlx_dpo.jobs.report import report_run
from mlx_dpo.jobs.train import train_run

from ..conftest import ROOT, files_in
from ..support.runs import rows_of, weights_of
from ..training.test_bad_checkpoints import sealed_again

EARLIER = ROOT / "tests" / "golden" / "run_0_1"
FIGURES = ("loss", "rewards/margins", "logps/chosen", "beta", "learning_rate", "grad_norm")


@pytest.fixture
def earlier(tmp_path):
    """The folder of the earlier version's runs, as if it had been written where it lies now."""
    folder = shutil.copytree(EARLIER, tmp_path / "earlier")
    for file in [*folder.glob("*/config.yaml"), *folder.glob("*/inspection.json")]:
        file.write_text(file.read_text().replace("FOLDER", str(folder)))
    return folder


ASKED = (
    *(
        "data.max_length=128",
        "adapter.rank=2",
        "loss.name=[sigmoid, sft]",
        "loss.options.label_smoothing=0.1",
    ),
    *("beta.rule=risk", "beta.risk.warmup_steps=2", "training.accumulation=2", "training.eval_steps=4"),
    *("training.samples=1", "training.sample_tokens=8", "training.keep_checkpoints=1"),
)


def as_written(run):
    """The settings of the run's own file, in which nothing is left open."""
    return load_config(run / "config.yaml", [f"run.output={run}"])


def as_asked(run):
    """The settings that the run was started with."""
    files = [f"data.{name}={run.parent / name}.jsonl" for name in ("train", "valid")]
    return load_config(None, [*ASKED, *files, f"model.path={run.parent / 'model'}", f"run.output={run}"])


def rounding(rows):
    """What a margin, the mean of two pairs, moves by where one log-probability is rounded the other way.

    Log-probabilities of answers are float32 sums of about 500 nats, and differ between kinds of CPU by a unit
    in the last place: 3e-5 nats. The margins of this run are 1e-3 and less.
    """
    largest = max(-row["logps/chosen"] for row in rows)
    return max(row["beta"] for row in rows) * np.spacing(np.float32(largest)) / 2


@pytest.mark.parametrize("settings", [as_asked, as_written])
def test_a_stopped_run_goes_on_and_ends_as_the_whole_one(earlier, settings):
    whole, _ = rows_of(earlier / "whole")
    assert rounding(whole) < 0.01 * max(abs(row["rewards/margins"]) for row in whole)
    train_run(settings(earlier / "stopped"))
    rows, held = rows_of(earlier / "stopped")
    assert [row["step"] for row in rows] == list(range(1, 25))
    assert [row["step"] for row in held] == [0, 4, 8, 12, 16, 20, 24]
    for name in FIGURES:
        least = rounding(whole) if name == "rewards/margins" else 0
        np.testing.assert_allclose(
            [r[name] for r in rows], [r[name] for r in whole], rtol=1e-4, atol=least, err_msg=name
        )
    ours, theirs = weights_of(earlier / "stopped"), weights_of(earlier / "whole")
    assert ours.keys() == theirs.keys()
    for name in ours:  # 18 updates of at most 2e-5 each
        np.testing.assert_allclose(ours[name], theirs[name], atol=2e-6, err_msg=name)


@pytest.mark.parametrize("settings", [as_asked, as_written])
def test_a_finished_run_is_known_as_finished(earlier, settings):
    before = files_in(earlier / "whole")
    train_run(settings(earlier / "whole"))
    assert files_in(earlier / "whole") == before


def test_a_setting_that_came_later_does_not_make_another_run(earlier):
    """The version that wrote it did not know the setting, whose default is not null."""

    def forget(facts):
        for later in ("training.patience", "beta.risk.gamma", "optimizer.grad_clip"):
            del facts["key"]["settings"][later]

    for checkpoint in (earlier / "whole" / "checkpoints").iterdir():
        sealed_again(checkpoint, forget)
    before = files_in(earlier / "whole")
    train_run(as_asked(earlier / "whole"))
    assert files_in(earlier / "whole") == before


def test_it_evaluates(earlier):
    found = evaluate_run(earlier / "whole", samples=0)
    _, held = rows_of(earlier / "whole")
    assert found.metrics["loss"] == pytest.approx(held[-1]["eval/loss"], rel=1e-5)


def test_it_is_fused(earlier, tmp_path):
    fused = fuse_run(str(earlier / "model"), earlier / "whole", tmp_path / "fused")
    base = mx.load(str(earlier / "model" / "model.safetensors"))
    made, own = mx.load(str(fused / "model.safetensors")), weights_of(earlier / "whole")
    name = "model.layers.0.self_attn.q_proj"
    change = 2.0 * (own[f"{name}.lora_a"] @ own[f"{name}.lora_b"]).T
    difference = np.array(made[f"{name}.weight"]) - np.array(base[f"{name}.weight"])
    np.testing.assert_allclose(difference, change, atol=1e-6)


def test_it_is_reported(earlier):
    page = report_run(earlier / "whole").read_text()
    assert "loss sigmoid + sft" in page
    assert "24 updates, epoch 6 of 6; training loss from 6.4476 to 6.4419." in page
