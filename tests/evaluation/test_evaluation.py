"""Evaluation of a finished run: the figures are those of its pairs, the answers those of its models."""

import json
import shutil

import numpy as np
import pytest

from mlx_dpo.config import load_config
from mlx_dpo.data.sources import read_pairs
from mlx_dpo.data.tokenize import tokenize_pairs
from mlx_dpo.evaluation.preference import evaluation_text
from mlx_dpo.forward.pair_logps import PLAIN
from mlx_dpo.forward.scoring import score_pairs
from mlx_dpo.jobs.evaluate import evaluate_run
from mlx_dpo.jobs.train import train_run
from mlx_dpo.models.adapters import load_adapter
from mlx_dpo.models.load import load_model, load_tokenizer
from mlx_dpo.storage.jsonl import write_jsonl


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory, models, pair_rows):
    """A folder with the rows of a run, and the run."""
    folder = tmp_path_factory.mktemp("trained")
    write_jsonl(folder / "train.jsonl", pair_rows[::24])
    write_jsonl(folder / "valid.jsonl", pair_rows[7::48])
    settings = [
        f"model.path={models('granite')}",
        f"data.train={folder / 'train.jsonl'}",
        f"data.valid={folder / 'valid.jsonl'}",
        "optimizer.learning_rate=3e-3",
        "training.accumulation=2",
        "training.micro_batch=2",
        "training.epochs=2",
        "training.samples=0",
        f"run.output={folder / 'run'}",
        "generate.max_tokens=12",
    ]
    train_run(load_config(None, settings))
    return folder


@pytest.fixture
def finished(trained_once, tmp_path):
    """The run's folder, as if all had been made in the test's own."""
    shutil.copytree(trained_once, tmp_path, dirs_exist_ok=True)
    settings = tmp_path / "run" / "config.yaml"
    settings.write_text(settings.read_text().replace(str(trained_once), str(tmp_path)))
    return tmp_path / "run"


def test_the_figures_are_those_of_the_pairs_worked_out_one_by_one(finished, tmp_path, models):
    result = evaluate_run(finished, samples=0)
    tokenizer = load_tokenizer(models("granite"))
    pairs, _ = tokenize_pairs(read_pairs(tmp_path / "valid.jsonl"), tokenizer, 1024)
    model, _ = load_model(models("granite"))
    singles = [[i] for i in range(len(pairs))]
    base = score_pairs(model, pairs, PLAIN, singles).astype(np.float64)
    load_adapter(model, finished)
    tuned = score_pairs(model, pairs, PLAIN, singles).astype(np.float64)
    rewards = 0.1 * (tuned - base)
    assert result.pairs == 10
    assert result.metrics["rewards/chosen"] == pytest.approx(rewards[:, 0].mean(), abs=1e-4)
    assert result.metrics["rewards/margins"] == pytest.approx(
        (rewards[:, 0] - rewards[:, 1]).mean(), abs=1e-4
    )
    assert result.metrics["rewards/accuracies"] == (rewards[:, 0] > rewards[:, 1]).mean()
    losses = np.log1p(np.exp(-(rewards[:, 0] - rewards[:, 1])))
    assert result.metrics["loss"] == pytest.approx(losses.mean(), abs=1e-5)
    assert result.preferred_base == (base[:, 0] > base[:, 1]).mean()
    assert result.preferred_tuned == (tuned[:, 0] > tuned[:, 1]).mean()


def test_evaluation_agrees_with_the_last_line_of_the_run(finished):
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    last = [r for r in rows if "eval/loss" in r][-1]
    result = evaluate_run(finished, samples=0)
    for name, value in result.metrics.items():
        assert last[f"eval/{name}"] == pytest.approx(value, abs=1e-6), name


def test_other_pairs_can_be_named(finished, write_rows, pair_rows):
    data = write_rows("other.jsonl", pair_rows[5::100])
    assert evaluate_run(finished, data=str(data), samples=0).pairs == len(pair_rows[5::100])


def test_the_command_shows_figures_and_both_answers(finished, forked, outcome):
    shown = forked("eval", "--run", finished, "--samples", 2)
    assert shown.wait() == 0, shown.stderr
    as_json = json.loads(outcome("eval", "--run", finished, "--samples", 2, "--json")[1])
    assert as_json["pairs"] == 10 and len(as_json["samples"]) == 2
    lines = shown.stdout.splitlines()
    assert lines[0].split() == ["held-out", "pairs", "(n)", "10"]
    for sample in as_json["samples"]:
        assert f"Q      {sample['prompt']}" in lines
        assert f"base   {sample['base']}" in shown.stdout
        assert f"tuned  {sample['tuned']}" in shown.stdout


def test_pairs_that_were_trained_on_are_not_called_held_out(finished, tmp_path):
    result = evaluate_run(finished, data=str(tmp_path / "train.jsonl"), samples=0)
    assert result.trained_on == result.pairs == 20
    assert f"{'NOT held out':<34}20 (the run was trained on them)" in evaluation_text(result)
    assert evaluate_run(finished, samples=0).trained_on == 0
    (tmp_path / "train.jsonl").rename(tmp_path / "renamed.jsonl")
    unknown = evaluation_text(evaluate_run(finished, data=str(tmp_path / "renamed.jsonl"), samples=0))
    assert unknown.startswith(f"{'pairs (n)':<34}20\n{'held out':<34}unknown: ")


def test_pairs_under_one_prompt_are_counted_by_prompt_too_and_asked_once(finished, write_rows, pair_rows):
    rows = [{**row, "id": f"{row['id']}-{i}"} for i in range(2) for row in pair_rows[7:10]]
    for row in rows[3:]:
        row["rejected"] += " Well."
    result = evaluate_run(finished, data=str(write_rows("ranked.jsonl", rows)), samples=4)
    assert (result.pairs, result.prompts, len(result.samples)) == (6, 3, 3)
    assert len({sample["prompt"] for sample in result.samples}) == 3
    assert evaluation_text(result).startswith(f"{'held-out pairs (n)':<34}6, of 3 prompts\n")


def test_a_base_that_moved_can_be_named(finished, tmp_path, models):
    moved = shutil.copytree(models("granite"), tmp_path / "moved")
    assert evaluate_run(finished, samples=0, model=str(moved)) == evaluate_run(finished, samples=0)
