"""Which setting is named where a run does not fit: the smallest change first; bytes are counted by hand."""

from types import SimpleNamespace

import mlx.core as mx
import pytest

from mlx_dpo.config import load_config
from mlx_dpo.planning import layout_choice, settings_that_fit
from mlx_dpo.planning.layout_choice import Run, plan_memory
from mlx_dpo.planning.settings_that_fit import nearest
from mlx_dpo.planning.step_memory import Need
from mlx_dpo.training.layout import Amounts

from ..support.policies import pair

PAIRS = [pair(100, 156, 20, 0), pair(10, 20, 20, 1)]
"""The longest branch has 256 tokens."""
FIXED = ["training.gradient_checkpointing=off", "training.branches=joint"]


@pytest.fixture
def hint(monkeypatch):
    """The remedy under a limit in bytes.

    Weights are 1,000 bytes, or 250 in 4 bits. A step takes a byte a token of each pair of a micro-batch,
    twice as many without checkpointing, a third more with joint branches; a rehearsal 50.
    """

    def need_of_step(run, config, layout):
        longest = max(len(p.prompt) + max(len(p.chosen), len(p.rejected)) for p in run.pairs)
        tokens = longest * config.training.micro_batch
        step = tokens * (1 if layout.checkpointing else 2) * (3 if layout.separate else 4) // 3
        return Need(run.model.weights, 0, 0, step, 50 if run.amounts.rehearsal else 0, 0)

    for module in (settings_that_fit, layout_choice):
        monkeypatch.setattr(module, "need_of_step", need_of_step)
        monkeypatch.setattr(module, "need_of_scoring", lambda run, config: Need(0, 0, 0, 0, 0, 0))
    monkeypatch.setattr(settings_that_fit, "read_model_config", lambda base: {})
    monkeypatch.setattr(
        settings_that_fit,
        "skeleton",
        lambda source, adapter: SimpleNamespace(weights=250 if "quantization" in source else 1000),
    )

    def find(limit, *settings, rehearsal=0.0):
        config = load_config(None, ["model.path=base", *settings])
        amounts = Amounts(1, rehearsal, 1e-5)
        run = Run(SimpleNamespace(weights=1000), "base", PAIRS, None, mx.cpu, amounts, "blocks")
        plan = plan_memory(run, config, limit)
        assert plan.chosen is None
        return nearest(plan, run, config)

    return find


@pytest.mark.parametrize(
    ("limit", "settings", "said"),
    [
        # 512 · 4/3 = 682 as it is; 512 with separate branches; 341 checkpointed; 256 with both.
        (1681, FIXED, "set training.gradient_checkpointing=off and training.branches=separate"),
        (1511, FIXED, "set training.gradient_checkpointing=on and training.branches=joint"),
        (1340, FIXED, "set training.gradient_checkpointing=on and training.branches=separate"),
        # Dropout excludes checkpointing.
        (1400, ["adapter.dropout=0.1"], "set adapter.dropout=0, training.gradient_checkpointing=on and "),
        # 512 with both and two pairs at a time; 256 with one.
        (1300, ["training.micro_batch=2", "training.accumulation=3"], "set training.micro_batch=1 and"),
        # Of 256 tokens 192 still fit, then 128; 96 leave no room for answers to a prompt of 100.
        (1200, [], "set data.max_length=192, with "),
        (1191, [], "set data.max_length=128, with "),
        (1127, [], "set model.path=./base-4bit, a 4-bit copy of the model: "),
        (505, [], "choose a smaller model"),
    ],
)
def test_the_smallest_change_under_which_a_run_fits_is_named(limit, settings, said, hint):
    assert hint(limit, *settings).startswith(said)


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (1300, "set training.rehearsal=0, with "),  # 256 without it, 306 with it
        (1250, "set data.max_length=192, with "),  # 242 with it
        (1200, "set data.max_length=128, with "),  # 178 with it
        (1170, "set training.rehearsal=0, data.max_length=128, with "),
    ],
)
def test_a_rehearsal_is_given_up_for_whole_rows_and_else_only_where_no_length_is_enough(limit, said, hint):
    assert hint(limit, rehearsal=0.1).startswith(said)


def test_two_changes_are_named_where_one_is_not_enough(hint):
    """One pair of 192 tokens at a time."""
    found = hint(1195, "training.micro_batch=2", "training.accumulation=3")
    assert found.startswith(
        "set training.micro_batch=1, training.accumulation=6 and data.max_length=192, with"
    )


def test_a_quantised_or_fully_trained_model_is_not_quantised_again(hint, monkeypatch):
    assert hint(700, "adapter.type=full") == "choose a smaller model"
    monkeypatch.setattr(settings_that_fit, "read_model_config", lambda base: {"quantization": {"bits": 4}})
    assert hint(700) == "choose a smaller model"
