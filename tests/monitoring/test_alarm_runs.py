"""Runs made to set off an alarm do, those in order set off none, and a ruined one ends with what was good."""

import json

import numpy as np
import pytest

from mlx_dpo.data.batches import epoch_windows
from mlx_dpo.demo.tiny_models import make_model
from mlx_dpo.jobs.train import train_run
from mlx_dpo.training.checkpoint_folder import CHECKPOINTS

from ..support.runs import rows_of, train_pairs


def alarms_of(folder):
    """Name of every alarm of a run, in order, with its step."""
    path = folder / "events.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {row["name"]: row["step"] for row in rows if row["event"] == "alarm"}


def test_a_run_in_order_raises_no_alarm(configure):
    settings = ("training.epochs=4", "training.samples=2", "training.sample_tokens=16")
    settings += ("training.eval_steps=2",)
    assert alarms_of(train_run(configure("granite", *settings, train=12, valid=3)).folder) == {}


def test_a_rate_that_moves_nothing_is_told(configure):
    settings = ("optimizer.learning_rate=1e-9", "training.patience=null", "training.eval_steps=1")
    settings += ("training.accumulation=2",)
    folder = train_run(configure("llama", *settings, train=20)).folder
    assert alarms_of(folder) == {"unmoved": 4}  # of 10 updates
    assert len(rows_of(folder)[0]) == 10


EASY = ("beta.value=20", "optimizer.learning_rate=1e-2", "training.eval_steps=1", "training.patience=null")


def test_pairs_that_are_too_easy_are_told_and_end_the_run(configure):
    folder = train_run(configure("llama", *EASY, "training.epochs=8", train=40)).folder
    found = alarms_of(folder)
    assert {"all right and growing", "margins too large"} <= set(found)
    # The run ends there, with the last adapter from before.
    reports, held_out = rows_of(folder)
    assert reports[-1]["step"] == held_out[-1]["step"] == found["margins too large"]
    assert held_out[-1]["eval/rewards/margins"] > 10 >= held_out[-2]["eval/rewards/margins"]
    of_best = folder / CHECKPOINTS / f"{held_out[-2]['step']:06d}" / "adapters.safetensors"
    assert (folder / "adapters.safetensors").read_bytes() == of_best.read_bytes()


@pytest.mark.parametrize(("guard", "alarm"), [("warn", True), ("off", False)])
def test_a_guard_that_warns_or_is_off_lets_it_go_on(configure, guard, alarm):
    settings = (*EASY, f"training.guard={guard}", "training.epochs=2", "training.accumulation=2")
    folder = train_run(configure("llama", *settings, train=20)).folder
    assert len(rows_of(folder)[0]) == 20
    assert ({"margins too large", "loss vanished"} <= set(alarms_of(folder))) == alarm


def test_chosen_answers_that_become_unlikely_are_told_and_end_the_run(
    configure, write_rows, pair_rows, tmp_path
):
    """The held-out pairs are labelled the wrong way round. A wide model: its logits may be large."""
    texts = [row[name] for row in pair_rows for name in ("prompt", "chosen", "rejected")]
    model = make_model(tmp_path / "wide", "llama", texts, hidden=256, layers=2, vocab=512)
    swapped = [
        {"prompt": r["prompt"], "chosen": r["rejected"], "rejected": r["chosen"]} for r in pair_rows[1::100]
    ]
    settings = (f"data.valid={write_rows('swapped.jsonl', swapped)}", "beta.value=0.01", "training.epochs=6")
    settings += ("adapter.type=full", "optimizer.learning_rate=5e-3", "training.eval_steps=2")
    settings += (f"model.path={model}", "training.patience=null")
    folder = train_run(configure("llama", *settings, train=40, valid=6)).folder
    _, held_out = rows_of(folder)
    assert held_out[-1]["step"] == alarms_of(folder)["chosen falls"] < 60
    assert held_out[-1]["eval/logps/chosen"] < held_out[0]["eval/logps/chosen"] - 0.7 * 8


def test_a_pair_that_pulls_far_harder_than_the_others_is_told(configure, write_rows, pair_rows):
    """Answers that differ in their last word, but for one pair, which comes last."""
    rows = [{"prompt": r["prompt"], "chosen": "So it is.", "rejected": "So it was."} for r in pair_rows[:32]]
    path = write_rows("alike.jsonl", rows)
    settings = (f"data.train={path}", "training.accumulation=1", "data.valid=null")
    settings += ("optimizer.learning_rate=1e-7", "beta.value=0.1", "training.seed=3")
    config = configure("llama", *settings)
    ((last,),) = epoch_windows(train_pairs(config), 1, 1, 3, 0)[31]
    rows[last] |= {"chosen": " ".join(["gladly!"] * 30), "rejected": " ".join(["0 1 2"] * 30)}
    write_rows("alike.jsonl", rows)
    assert alarms_of(train_run(config).folder) == {"gradient spike": 32}


def test_answers_that_repeat_themselves_are_told_and_end_the_run(configure, write_rows, pair_rows):
    """What is preferred is one word, again and again."""
    rows = [
        {"prompt": r["prompt"], "chosen": " ".join(["so"] * 24), "rejected": r["chosen"]}
        for r in pair_rows[:46]
    ]
    train, valid = write_rows("so.jsonl", rows[:40]), write_rows("so_valid.jsonl", rows[40:])
    settings = (
        f"data.train={train}",
        f"data.valid={valid}",
        "loss.name=[sigmoid, sft]",
        "training.samples=4",
    )
    settings += ("training.sample_tokens=32", "optimizer.learning_rate=2e-2", "training.eval_steps=1")
    config = configure("llama", *settings, "training.patience=null", "training.epochs=4")
    folder = train_run(config).folder
    found = alarms_of(folder)
    _, held_out = rows_of(folder)
    shares = [row["eval/samples/distinct_4"] for row in held_out]
    assert held_out[-1]["step"] == found["answers repeat"]
    assert shares[-1] < 0.8 * shares[0] <= np.min(shares[:-1])


def test_answers_that_run_on_are_told(configure, write_rows, pair_rows):
    """A model that has learnt to answer in two words is taught to say thirty; held-out pairs stay short."""

    def rows(name, chosen, some):
        return write_rows(name, [{"prompt": r["prompt"], "chosen": chosen, "rejected": "No."} for r in some])

    short = rows("short.jsonl", "So so", pair_rows[:40])
    long = rows("long.jsonl", " ".join(["so"] * 30), pair_rows[:40])
    valid = rows("short_valid.jsonl", "So so", pair_rows[40:46])
    shared = (f"data.valid={valid}", "optimizer.learning_rate=2e-2", "training.samples=0")
    shared += ("training.sample_tokens=48", "training.eval_steps=2", "training.patience=null")
    first = configure("llama", f"data.train={short}", *shared, "loss.name=sft", "training.select=last")
    begun = train_run(first).folder.rename(short.parent / "begun")
    more = ("loss.name=[sigmoid, sft]", f"model.adapter={begun}", "training.guard=warn")
    more += ("training.eval_steps=4", "training.samples=4")
    folder = train_run(configure("llama", f"data.train={long}", *shared, *more)).folder
    _, held_out = rows_of(folder)
    tokens = {row["step"]: row["eval/samples/tokens"] for row in held_out}
    grown = alarms_of(folder)["answers grow"]
    assert tokens[0] <= 4 and tokens[grown] > 8
    assert all(tokens[step] <= 8 for step in tokens if step < grown)
