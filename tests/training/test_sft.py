"""Supervised training: answers alone, with the same adapters, loop and folder; then DPO starts from it."""

import json
import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_dpo.cli import main
from mlx_dpo.config import load_config
from mlx_dpo.data.own_format import to_answer
from mlx_dpo.errors import DpoError
from mlx_dpo.forward.pair_logps import PLAIN, SHARED
from mlx_dpo.jobs.inspect import inspect_pairs
from mlx_dpo.jobs.train import train_run
from mlx_dpo.losses import LossConfig, build_loss
from mlx_dpo.models.adapters import attach
from mlx_dpo.models.load import load_model
from mlx_dpo.settings import save_settings
from mlx_dpo.training.step import pair_gradient

from ..support.runs import rows_of, train_pairs, weights_of

SFT = "loss.name=sft"


def test_the_first_loss_is_the_mean_negative_log_probability_of_every_answer_token(configure, models):
    config = configure("granite", SFT, "training.accumulation=20", train=20)
    reports, held_out = rows_of(train_run(config).folder)
    model, _ = load_model(models("granite"))
    total = tokens = 0
    for pair in train_pairs(config):
        ids = np.concatenate([pair.prompt, pair.chosen])
        logits = model(mx.array(ids[None, :-1]))[0, len(pair.prompt) - 1 :]
        total += nn.losses.cross_entropy(logits, mx.array(pair.chosen), reduction="sum").item()
        tokens += len(pair.chosen)
    assert reports[0]["loss"] == pytest.approx(total / tokens, rel=1e-5)
    assert held_out[0]["eval/loss"] == pytest.approx(math.log(512), rel=0.5)


def test_figures_of_pairs_are_not_reported_and_tokens_are_counted_once(configure):
    config = configure("llama", SFT, train=8)
    reports, held_out = rows_of(train_run(config).folder)
    assert not [name for name in (*reports[0], *held_out[0]) if "rewards" in name or "rejected" in name]
    assert reports[-1]["tokens"] == sum(len(p.prompt) + len(p.chosen) for p in train_pairs(config))


def test_an_answer_is_computed_once_with_the_gradient_of_the_plain_forward(configure, models):
    """Its row stands for both sides of a pair, and the shared forward computes like branches once."""
    config = configure("granite", SFT, train=8)
    pairs = [train_pairs(config)[i] for i in range(3)]
    model, _ = load_model(models("granite"))
    attach(model, config.adapter)
    loss, reference = build_loss(config.loss), mx.zeros((3, 2))
    batch = SHARED.build(pairs)
    rows = sum(len(segment.inputs) for family in batch.families for segment in family.segments)
    assert rows == 3
    found = []
    for forward in (SHARED, PLAIN):
        own = pair_gradient(model, loss, forward)
        gradient, losses, _ = own.compute(own.build(pairs), reference, mx.array(0.1), mx.array(30.0))
        found.append((np.array(losses), [np.array(g) for _, g in tree_flatten(gradient)]))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-5)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert np.linalg.norm(one - other) <= 1e-4 * np.linalg.norm(other) + 1e-7


def test_pairs_and_curated_rows_of_the_same_answers_train_the_same(configure, tmp_path, write_rows):
    config = configure("llama", SFT, "data.valid=null", train=8)
    of_pairs = train_run(config).folder
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    curated = write_rows("curated.jsonl", [{"prompt": r["prompt"], "answer": r["chosen"]} for r in rows])
    given = ("llama", SFT, "data.valid=null", f"data.train={curated}")
    of_rows = train_run(configure(*given, train=8, output="curated")).folder
    assert all(np.array_equal(w, weights_of(of_rows)[n]) for n, w in weights_of(of_pairs).items())


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "b"),
        ({"prompt": "a", "answer": "b"}, "b"),
        ({"question": "a", "answer": "b"}, "b"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "b"),
    ],
)
def test_every_form_of_row_has_an_answer_to_learn(row, answer):
    record = to_answer(row, "rows.jsonl:1")
    assert (record.chosen, record.rejected) == (answer, answer)


@pytest.mark.parametrize(
    "row", [{"prompt": "a"}, {"prompt": "a", "chosen": "b"}, {"prompt": "a", "answer": ""}]
)
def test_a_row_without_an_answer_is_refused_by_its_line(row, configure, write_rows):
    path = write_rows("rows.jsonl", [{"prompt": "q", "answer": "x"}, row])
    with pytest.raises(DpoError) as error:
        train_run(configure("llama", SFT, f"data.train={path}", "data.valid=null"))
    assert error.value.where == f"{path}:2"


def test_held_out_answers_become_likelier_and_dpo_starts_from_there(configure, capsys, tmp_path):
    """The commands as a user gives them; the reference of DPO is what the supervised run ended as."""
    config = configure("llama", train=24)
    given = [f"model.path={config.model.path}", f"data.train={config.data.train}"]
    given += [f"data.valid={config.data.valid}", "data.max_length=128", "training.samples=0"]
    given += ["training.rehearsal=0", "training.accumulation=2"]
    sets = [word for setting in given for word in ("--set", setting)]
    more = ["--set", "optimizer.learning_rate=5e-3", "--set", "training.epochs=5"]
    with pytest.raises(SystemExit) as stop:
        main(["sft", *sets, *more, "--output", str(tmp_path / "sft")])
    assert stop.value.code == 0
    assert f"--set model.adapter={tmp_path / 'sft'}" in capsys.readouterr().out
    _, held_out = rows_of(tmp_path / "sft")
    best = min(held_out, key=lambda row: row["eval/loss"])
    # Random and frozen, the head of this model allows little: even full training ends 0.34 below the start.
    assert best["eval/loss"] < held_out[0]["eval/loss"] - 0.2
    onward = ["--set", f"model.adapter={tmp_path / 'sft'}", "--set", "training.epochs=1"]
    with pytest.raises(SystemExit) as stop:
        main(["train", *sets, *onward, "--output", str(tmp_path / "dpo")])
    assert stop.value.code == 0
    reports, first = rows_of(tmp_path / "dpo")
    assert reports[0]["loss"] == pytest.approx(math.log(2), abs=5e-7)
    assert first[0]["eval/logps/chosen"] == pytest.approx(best["eval/logps/chosen"], abs=1e-3)


def test_the_settings_of_pairs_need_not_be_taken_out_of_a_file(configure, tmp_path):
    """What inspect advises is the same file with another command."""
    of_pairs = ("loss.name=[sigmoid, robust]", "loss.weights=[1, 2]", "loss.options.label_smoothing=0.1")
    of_pairs += ("beta.rule=risk", "beta.risk.warmup_steps=1", "training.reference_sync_steps=2")
    config = configure("llama", *of_pairs)
    save_settings(config, tmp_path / "pairs.yaml")
    with pytest.raises(SystemExit) as stop:
        main(["sft", "--config", str(tmp_path / "pairs.yaml")])
    assert stop.value.code == 0
    assert load_config(tmp_path / "run" / "config.yaml").loss == LossConfig(name="sft")


def test_answers_alone_are_not_for_inspect(configure):
    with pytest.raises(DpoError, match="inspect checks pairs"):
        inspect_pairs(configure("llama", SFT))
