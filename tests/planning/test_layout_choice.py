"""The fastest layout that fits is chosen; training that does not fit is refused with settings that do."""

import json
import os
import re
import shutil
from dataclasses import replace

import pytest

from benchmarks import bench_full_size as full_size
from mlx_dpo.config import load_config
from mlx_dpo.data.row_index import index_rows
from mlx_dpo.errors import DpoError
from mlx_dpo.forward.mlx_attention import BLOCKS
from mlx_dpo.forward.pair_logps import COMPLETION
from mlx_dpo.jobs import plan as planning
from mlx_dpo.jobs import prepare
from mlx_dpo.jobs.plan import Start, plan_run, planned_layout
from mlx_dpo.jobs.train import train_run
from mlx_dpo.machine.resources import memory_limit
from mlx_dpo.models.load import load_model
from mlx_dpo.planning.layout_choice import allowed
from mlx_dpo.planning.step_memory import LAYOUTS
from mlx_dpo.training.layout import Amounts, Layout


def replace_forward(config, name):
    return replace(config, training=replace(config.training, forward=name))


def test_the_settings_leave_layouts_open_from_the_fastest(configure):
    assert allowed(configure()) == LAYOUTS
    assert allowed(configure("training.branches=joint")) == LAYOUTS[::2]
    assert allowed(configure("training.gradient_checkpointing=on")) == LAYOUTS[2:]
    assert allowed(configure("adapter.dropout=0.1")) == LAYOUTS[:2]
    assert allowed(configure("training.forward=plain")) == LAYOUTS[::2]


def test_auto_takes_the_fastest_layout_that_fits(configure, usual_needs, monkeypatch):
    config = configure()
    peaks = [usual_needs[layout].peak for layout in LAYOUTS]
    assert peaks[0] > min(peaks)
    for limit in (peaks[0], peaks[0] - 1):
        monkeypatch.setattr(planning, "memory_limit", lambda memory=None, limit=limit: limit)
        fits = next(layout for layout, peak in zip(LAYOUTS, peaks, strict=True) if peak <= limit)
        assert plan_run(config).chosen == fits
        rows = index_rows(config.data.train)
        base = planning.find_model(config.model.path)
        pairs = planning.open_pairs(rows, planning.load_tokenizer(base), config.data.max_length)
        start = Start(base, pairs, None, Amounts(1, 0.0, 2e-5))
        assert planned_layout(config, start, BLOCKS, None)[0] == fits


def test_training_that_does_not_fit_is_refused_with_the_nearest_setting_that_does(
    configure, usual_needs, monkeypatch
):
    fixed = ("training.gradient_checkpointing=off", "training.branches=joint")
    least = min(usual_needs.values(), key=lambda n: n.peak)
    assert least.peak < usual_needs[LAYOUTS[0]].peak
    monkeypatch.setattr(planning, "memory_limit", lambda memory=None: least.peak)
    with pytest.raises(DpoError, match="does not fit") as caught:
        train_run(configure(*fixed))
    assert "training.gradient_checkpointing=" in caught.value.hint
    monkeypatch.setattr(planning, "memory_limit", lambda memory=None: 1000)
    with pytest.raises(DpoError, match="does not fit") as caught:
        train_run(configure())
    assert caught.value.hint.startswith("choose a smaller model; ")
    gigabytes = float(caught.value.hint.split("memory_limit=")[1].split()[0])
    assert plan_run(configure(f"training.memory_limit={gigabytes}")).chosen


def test_a_model_that_cannot_be_planned_trains_all_the_same(configure, monkeypatch, capsys):
    def broken(*args):
        raise RuntimeError("what is this?")

    monkeypatch.setattr(planning, "skeleton", broken)
    train_run(configure())
    assert "plan: none" in capsys.readouterr().err


def test_a_run_whose_prompts_cannot_be_shared_after_all_is_planned_again(
    configure, usual_needs, monkeypatch, models
):
    """Sequences of their own need more: what fitted joint and stored then fits only checkpointed."""
    unshared = replace_forward(configure(), COMPLETION.name)
    stored, checkpointed = (dict(plan_run(unshared).needs)[layout].peak for layout in LAYOUTS[::2])
    shared = usual_needs[LAYOUTS[0]].peak
    assert max(shared, checkpointed) < stored
    monkeypatch.setattr(planning, "memory_limit", lambda memory=None: stored - 1)
    seen = []

    def fall_back(policy, pairs, setting, *, separate):
        seen.append(policy)
        return COMPLETION

    monkeypatch.setattr(prepare, "choose_forward", fall_back)
    folder = train_run(configure()).folder
    training = load_config(folder / "config.yaml").training
    assert (training.gradient_checkpointing, training.branches) == ("on", "joint")
    own = load_model(models("llama"))[0].layers[0]
    assert type(seen[0].layers[0]).__mro__[1] is type(own)  # checkpointing gives a block a class of its own


def test_where_only_dropout_keeps_blocks_from_being_checkpointed_it_is_named(
    configure, usual_needs, monkeypatch
):
    least = min(usual_needs.values(), key=lambda n: n.peak)
    monkeypatch.setattr(planning, "memory_limit", lambda memory=None: least.peak)
    hint = plan_run(configure("adapter.dropout=0.1")).hint
    assert hint.startswith("set adapter.dropout=0, training.gradient_checkpointing=on and training.branches=")


def test_where_one_change_is_not_enough_two_are_named_and_they_fit(configure, monkeypatch):
    least = min(n.peak for n in dict(plan_run(configure("data.max_length=96")).needs).values())
    monkeypatch.setattr(planning, "memory_limit", lambda memory=None: least)
    hint = plan_run(configure("training.micro_batch=2", "training.accumulation=2")).hint
    words = r"set (training\.micro_batch=1), (training\.accumulation=4) and (data\.max_length=\d+), with "
    assert plan_run(configure(*re.match(words, hint).groups())).chosen


@pytest.mark.skipif(not os.environ.get("MLX_DPO_EVERY_COMBINATION"), reason="it takes half a minute")
def test_a_remedy_that_other_settings_forbid_is_not_tried_and_the_run_is_refused(configure, monkeypatch):
    """Micro-batches of one pair would score pairs twice under this loss, which dropout does not allow."""
    forbidding = ("training.micro_batch=2", "training.accumulation=1", "loss.name=aot", "adapter.dropout=0.1")
    monkeypatch.setattr(planning, "memory_limit", lambda memory=None: 1000)
    with pytest.raises(DpoError, match="does not fit") as caught:
        train_run(configure(*forbidding))
    assert caught.value.hint.startswith("choose a smaller model; ")


def test_a_mac_lets_its_gpu_use_two_thirds_or_three_quarters():
    assert memory_limit(16) == int(16 * 2**30 * 2 / 3)
    assert memory_limit(64) == 48 * 2**30


def test_a_limit_that_is_set_overrules_a_macs(configure):
    assert plan_run(configure("training.memory_limit=9"), memory=16).limit == 9_000_000_000


def test_a_limit_that_no_plan_can_hold_is_said(configure, monkeypatch, capsys):
    monkeypatch.setattr(planning, "skeleton", lambda base, adapter: {}["no such module"])
    train_run(configure("training.memory_limit=9"))
    said = capsys.readouterr().err
    assert "cannot be planned: 'no such module'; training.memory_limit is not checked" in said


@pytest.mark.skipif(not os.environ.get("MLX_DPO_EVERY_COMBINATION"), reason="it takes a minute")
def test_the_size_of_a_hinted_4_bit_copy_is_what_is_planned_for_it(configure, models, tmp_path):
    """Granite 4.0 H-Micro's real shape, of which nothing but settings is needed."""
    plans = []
    for name, more in (("half", {}), ("quarter", {"quantization": {"group_size": 64, "bits": 4}})):
        shutil.copytree(
            models("granite"), tmp_path / name, ignore=shutil.ignore_patterns("*.safetensors", "config.json")
        )
        settings = {**full_size.H_MICRO, "torch_dtype": "bfloat16", **more}
        (tmp_path / name / "config.json").write_text(json.dumps(settings))
        # Where prompts leave no room, no shorter rows are tried before, which would take longest.
        settings = (f"model.path={tmp_path / name}", "training.memory_limit=2.8", "data.max_length=90")
        plans.append(plan_run(configure(*settings)))
    assert f"a 4-bit copy of the model: {plans[1].need.peak / 1e9:.1f} GB with" in plans[0].hint


@pytest.mark.parametrize("layout", [Layout(True, False), Layout(True, True)])
def test_without_shared_prompts_branches_are_joint_and_checkpointing_is_still_tried(configure, layout):
    config = configure(
        "training.forward=plain", f"training.branches={'separate' if layout.separate else 'auto'}"
    )
    assert allowed(config) == [Layout(False, False), Layout(True, False)]
