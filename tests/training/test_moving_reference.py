"""TR-DPO: the policy takes its reference's place every so many updates."""

import math

import numpy as np
import pytest

from mlx_dpo.config import load_config
from mlx_dpo.errors import DpoError
from mlx_dpo.jobs.train import train_run

from ..support.runs import rows_of, weights_of

LN2 = math.log(2)
CONSTANT = ("optimizer.schedule=constant", "optimizer.warmup_ratio=0", "training.accumulation=2")
ALONE = "data.valid=null"


def test_a_reference_that_follows_every_update_leaves_no_margin(configure):
    settings = ("training.reference_sync_steps=1", "training.epochs=2", *CONSTANT)
    reports, held_out = rows_of(train_run(configure("llama", *settings, train=10)).folder)
    assert len(reports) == 10
    assert [row["loss"] for row in reports] == pytest.approx([LN2] * 10, abs=5e-7)
    assert [row["rewards/margins"] for row in reports] == [0] * 10
    # Held-out pairs are judged against where the run started.
    assert held_out[-1]["eval/rewards/margins"] > 1e-3


def test_after_a_sync_the_policy_starts_from_no_margin(configure):
    moving = train_run(
        configure("llama", "training.reference_sync_steps=3", *CONSTANT, ALONE, train=10, output="moving")
    ).folder
    still = train_run(configure("llama", *CONSTANT, ALONE, train=10, output="still")).folder
    (ours, _), (theirs, _) = rows_of(moving), rows_of(still)
    for name in ("loss", "rewards/margins", "logps/chosen", "grad_norm"):
        assert [row[name] for row in ours[:3]] == [row[name] for row in theirs[:3]]
    assert ours[3]["rewards/margins"] == 0 != theirs[3]["rewards/margins"]
    # The policy itself has not changed at the sync.
    assert ours[3]["logps/chosen"] == theirs[3]["logps/chosen"]
    assert ours[4]["rewards/margins"] != 0
    assert not all(np.array_equal(w, weights_of(still)[n]) for n, w in weights_of(moving).items())


def test_it_goes_with_a_beta_that_looks_first(configure):
    settings = ("training.reference_sync_steps=2", "beta.rule=beta_dpo", *CONSTANT, ALONE)
    reports, _ = rows_of(train_run(configure("llama", *settings, train=10)).folder)
    gaps = [row["beta_dpo/gap_mean"] for row in reports]
    assert gaps[0] == gaps[2] == gaps[4] == 0 and gaps[1] != 0 != gaps[3]


def test_a_run_that_ends_before_the_first_sync_is_refused(configure):
    config = configure("llama", "training.reference_sync_steps=5", train=20)
    with pytest.raises(DpoError, match=r"after 5 updates, .* only 5"):
        train_run(config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["training.reference_sync_steps=4", "loss.name=simpo"], "simpo does not use the reference"),
        (["training.reference_sync_steps=0"], "reference_sync_steps must be null or at least 1, got 0"),
        (
            ["training.reference_sync_steps=4", "adapter.type=full"],
            "full training trains all weights",
        ),
        (
            ["training.reference_sync_steps=4", "adapter.dropout=0.1"],
            "cannot be used with training.reference_sync_steps",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(DpoError, match=message):
        load_config(None, settings)
