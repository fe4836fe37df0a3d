"""The learning rate of sft: where a rising rate has brought the loss half of the way down."""

import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_dpo.errors import DpoError
from mlx_dpo.forward.pair_logps import SHARED
from mlx_dpo.jobs import learning_rate as job
from mlx_dpo.jobs.resume import settled_before, up_to_date
from mlx_dpo.jobs.train import train_run
from mlx_dpo.losses import build_loss
from mlx_dpo.models.adapters import attach
from mlx_dpo.models.load import load_model
from mlx_dpo.training.layout import Amounts, Layout
from mlx_dpo.training.learning_rate_test import RATES, found_rate, rate_test
from mlx_dpo.training.step import pair_gradient

from ..conftest import some
from ..support.runs import rows_of, train_pairs

SFT = ("loss.name=sft", "optimizer.learning_rate=null")
HALF = ("training.accumulation=2",)


def test_the_rate_is_the_one_of_the_update_that_reached_half_of_the_way():
    losses = [4.0] * 10 + [3.0, 2.0, 1.0, 0.0, 3.0]
    assert found_rate(losses) == pytest.approx(RATES[10])  # the update from 3.0 to 2.0, half of 4.0 to 0.0


def test_between_two_updates_the_rate_is_interpolated_by_its_logarithm():
    losses = [4.0] * 10 + [3.0, 1.0, 0.0]
    assert found_rate(losses) == pytest.approx(np.sqrt(RATES[9] * RATES[10]))


def test_a_loss_that_never_falls_clearly_gives_no_rate():
    """Half precision rounds a loss by some thousandths."""
    assert found_rate([4.0, 4.0, 4.1]) is None
    assert found_rate([4.15, 4.1499, 4.1501]) is None
    assert found_rate([4.0]) is None
    assert found_rate([4.0, float("nan")]) is None


def test_noise_of_the_first_updates_does_not_give_the_rate():
    losses = [4.15, 4.1501, 4.1499, 4.1502, *np.linspace(4.1, 1.0, 20), 9.0]
    assert found_rate(losses) == pytest.approx(RATES[12], rel=0.3)


def test_the_policy_is_in_training_mode_while_it_is_differentiated(configure, models):
    """Some models run a kernel without a gradient in evaluation mode, in which mlx_lm loads them."""
    config = configure("llama", *SFT)
    model, _ = load_model(models("llama"))
    attach(model, config.adapter)
    gradient, modes = pair_gradient(model, build_loss(config.loss), SHARED), []

    def compute(*arguments):
        modes.append(model.training)
        return gradient.compute(*arguments)

    rate_test(model, gradient._replace(compute=compute), train_pairs(config), config.optimizer)
    assert modes and all(modes)
    assert not model.training


def test_the_test_leaves_the_policy_as_it_was(configure, models):
    config = configure("llama", *SFT)
    model, _ = load_model(models("llama"))
    attach(model, config.adapter)
    before = {name: np.array(value) for name, value in tree_flatten(model.parameters())}
    gradient = pair_gradient(model, build_loss(config.loss), SHARED)
    losses = rate_test(model, gradient, train_pairs(config), config.optimizer)
    assert min(losses) < losses[0] - 0.2
    after = dict(tree_flatten(model.parameters()))
    assert all(np.array_equal(before[name], np.array(after[name])) for name in before)


@pytest.mark.parametrize("model", some(["llama", "granite"], "granite"))
def test_a_run_at_the_found_rate_learns_more_than_at_a_tenth_or_thirty_times_of_it(model, configure):
    def held_out(rate, name):
        settings = ("loss.name=sft", f"optimizer.learning_rate={rate}", *short)
        return train_run(configure(model, *settings, train=8, valid=2, output=name)).held_out["eval/loss"]

    short = ("training.epochs=3", "training.eval_steps=99", *HALF)
    own = train_run(configure(model, *SFT, *short, train=8, valid=2, output="own"))
    rate = max(row["learning_rate"] for row in rows_of(own.folder)[0])
    assert own.held_out["eval/loss"] < held_out(rate / 10, "low")
    assert own.held_out["eval/loss"] < held_out(rate * 30, "high")


def test_a_run_that_goes_on_keeps_the_rate_and_the_epochs_that_its_start_found(configure, monkeypatch):
    config = configure("llama", *SFT, "training.epochs=null", "training.patience=null", *HALF, train=4)
    folder = train_run(config).folder
    assert config.training.epochs_for(4, answers_only=True) == 10
    assert len(rows_of(folder)[0]) == 20
    monkeypatch.setattr(job, "rate_test", lambda *_: pytest.fail("the rate is known"))
    before = (folder / "metrics.jsonl").read_bytes()
    assert train_run(config).folder == folder
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_where_no_rate_lowers_the_loss_the_run_says_so(configure, monkeypatch):
    monkeypatch.setattr(job, "rate_test", lambda *_: [4.0, 4.1])
    with pytest.raises(DpoError, match="no learning rate from 1e-05") as stop:
        train_run(configure("llama", *SFT))
    assert "optimizer.learning_rate" in str(stop.value)


def test_pairs_have_their_usual_rate_and_passes_that_make_24_updates(configure):
    open_settings = ("optimizer.learning_rate=null", "training.epochs=null")
    config = configure("llama", *open_settings, "training.accumulation=1", train=5)
    reports, _ = rows_of(train_run(config).folder)
    assert len(reports) == 25  # five passes of five windows
    training = configure("llama", *open_settings).training
    assert [training.epochs_for(n, answers_only=False) for n in (4, 12, 48, 96, 1000)] == [6, 6, 2, 1, 1]
    assert max(row["learning_rate"] for row in reports) == pytest.approx(2e-5)


def test_a_checkpoint_of_an_earlier_version_is_read_with_todays_names_and_defaults():
    settled = {"gradient_checkpointing": "on", "branches": "joint", "epochs": 10, "learning_rate": 8e-4}
    now = up_to_date({"key": {"settings": {"loss.name": "sft"}}, "layout": settled, "step": 3})
    assert now["layout"] == Layout(checkpointing=True, separate=False, attention="blocks")._asdict()
    assert now["amounts"] == Amounts(epochs=10, rehearsal=0.0, learning_rate=8e-4)._asdict()
    assert now["key"]["settings"]["training.attention"] == "auto"
    assert (now["key"]["settings"]["loss.name"], now["step"]) == ("sft", 3)


def test_with_another_loss_the_rate_and_the_passes_of_the_old_one_do_not_count():
    layout, amounts = Layout(True, False), Amounts(10, 1.0, 8e-4)
    key = {"settings": {"loss.name": "sft"}}
    facts = {"key": key, "layout": layout._asdict(), "amounts": amounts._asdict()}
    assert settled_before(facts, key) == (layout, amounts)
    assert settled_before(facts, {"settings": {"loss.name": "sigmoid"}}) == (layout, None)
