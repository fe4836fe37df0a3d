"""What newcomers stumbled over: each is said, with what to do, before time is lost."""

import json
import shutil

import pytest

from mlx_dpo.cli import main
from mlx_dpo.config import load_config
from mlx_dpo.data.row_files import open_rows
from mlx_dpo.errors import DpoError
from mlx_dpo.inspection.score_columns import of_scores
from mlx_dpo.jobs.evaluate import evaluate_run
from mlx_dpo.jobs.train import train_run
from mlx_dpo.losses import LOSSES, LossConfig
from mlx_dpo.models.generate import generate_answers
from mlx_dpo.monitoring.alarms import About, alarms
from mlx_dpo.printed_commands import path_word
from mlx_dpo.storage.cache import cache_folder

from ..conftest import ROOT
from ..support.mistakes import pair
from ..support.runs import rows_of

EARLIER = ROOT / "tests" / "golden" / "run_0_1"


def remedy(**about):
    """Of a run whose held-out margin stays at 0."""
    evaluation = {"step": about["steps"], "eval/rewards/margins": 0.001, "eval/logps/chosen": -1.0}
    (alarm,) = alarms([], [evaluation], About(chosen_tokens=9, rejected_tokens=9, vanishes=True, **about))
    return alarm.remedy


def test_a_run_of_few_updates_that_did_not_move_is_to_be_longer_and_any_other_bolder():
    few = remedy(steps=6, epochs=6, learning_rate=2e-5)
    assert "only 6 updates" in few and "set training.epochs=24, which makes 24" in few
    assert "set training.epochs=8, which makes 24" in remedy(steps=9, epochs=3, learning_rate=2e-5)
    assert "only 1 update: " in remedy(steps=1, epochs=1, learning_rate=2e-5)
    many = remedy(steps=24, epochs=6, learning_rate=2e-5)
    assert (
        "set optimizer.learning_rate=6.0e-05 " in many and "lower beta.value" in many and "epochs" not in many
    )


def test_the_alarm_of_a_real_run_names_the_epochs(configure, capsys):
    config = configure("llama", "training.epochs=2", "optimizer.learning_rate=1e-9", train=8)
    train_run(config)
    assert "only 4 updates: set training.epochs=12, which makes 24" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.betas])
def test_a_beta_of_another_scale_than_the_losses_is_warned_of(name):
    note = LossConfig(name=name).beta_note(0.1)
    assert note.startswith(f"beta.value=0.1 is too small for {name}") and "set beta.value=2 " in note
    assert LossConfig(name=[name, "sft"]).beta_note(0.99) and not LossConfig(name=name).beta_note(1.0)


def test_the_usual_beta_of_other_losses_is_not_warned_of():
    assert [n for n in LOSSES if LossConfig(name=n).beta_note(0.1)] == ["sigmoid_norm", "simpo"]


@pytest.mark.parametrize("command", ["inspect", "train"])
def test_simpo_with_the_default_beta_is_warned_of_at_the_start(command, models, write_rows, tmp_path, capsys):
    path = write_rows("rows.jsonl", [pair()])
    words = [command, "--data", str(path), "--model", str(models("llama")), "--set", "loss.name=simpo"]
    words += ["--output", str(tmp_path / "run")] if command == "train" else ["--no-model"]
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 0
    assert "WARNING: beta.value=0.1 is too small for simpo" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("columns", "code", "what"),
    [
        (
            {"score_chosen": 4, "score_rejected": 4},
            "scores-tie",
            "score_chosen and score_rejected are both 4",
        ),
        (
            {"chosen-rating": 1.5, "rejected-rating": 2},
            "scores-against",
            "chosen-rating is 1.5, rejected-rating is 2",
        ),
        (
            {"chosenReward": 0, "rejectedReward": 0.0},
            "scores-tie",
            "chosenReward and rejectedReward are both 0",
        ),
        ({"meta": {"chosen_avg_rating": 3, "rejected_avg_rating": 3}}, "scores-tie", None),
    ],
)
def test_scores_that_prefer_nothing_or_the_other_answer_are_found(columns, code, what):
    (found,) = of_scores({**pair(), **columns}, "rows.jsonl:3")
    assert (found.code, found.line) == (code, 3) and found.remedy
    assert what in (None, found.what)


@pytest.mark.parametrize(
    "columns",
    [
        {"score_chosen": 5, "score_rejected": 4},
        {"score_chosen": None, "score_rejected": 4},
        {"score_chosen": 4},
        {"reference_chosen_logps": -80.0, "reference_rejected_logps": -70.0},
        {"chosen_length": 10, "rejected_length": 20},
        {"chosen_rank": 1, "rejected_rank": 2},
        {"chosen_score_valid": True, "rejected_score_valid": True},
        {"meta": "rating"},
    ],
)
def test_columns_that_are_no_scores_and_scores_that_agree_are_left_alone(columns):
    assert of_scores({**pair(), **columns}, "rows.jsonl:3") == []


def test_rows_that_a_run_drops_are_told_with_what_to_do(configure, tmp_path, capsys):
    config = configure("llama", train=4)
    with open(tmp_path / "train.jsonl", "a") as file:
        file.write(json.dumps(pair(prompt="Why not?", chosen="So.", rejected="So.")) + "\n")
    train_run(config)
    said = capsys.readouterr().err
    assert "1 dropped row" in said and "raise data.max_length or remove the rows" in said


def test_data_and_valid_of_train_are_those_of_inspect(models, write_rows, tmp_path):
    """--data alone trains without held-out pairs, whatever the settings file names."""
    write_rows("a.jsonl", [pair()])
    write_rows("b.jsonl", [pair(prompt="Why?")])
    (tmp_path / "run.yaml").write_text(
        f"data: {{valid: {tmp_path}/b.jsonl}}\ntraining: {{samples: 0, epochs: 1}}\n"
    )
    given = ["--config", str(tmp_path / "run.yaml"), "--model", str(models("llama"))]
    files = {
        "alone": (["--data", f"{tmp_path}/a.jsonl"], None),
        "both": (["--data", f"{tmp_path}/a.jsonl", "--valid", f"{tmp_path}/b.jsonl"], f"{tmp_path}/b.jsonl"),
    }
    for name, (named, valid) in files.items():
        with pytest.raises(SystemExit) as stop:
            main(["train", *given, *named, "--output", str(tmp_path / name)])
        assert stop.value.code == 0
        data = load_config(tmp_path / name / "config.yaml").data
        assert (data.train, data.valid) == (f"{tmp_path}/a.jsonl", valid)
    assert rows_of(tmp_path / "both")[1] and not rows_of(tmp_path / "alone")[1]


def test_eval_cuts_its_samples_and_says_so(trained, models, monkeypatch):
    from mlx_dpo.evaluation.preference import evaluation_text
    from mlx_dpo.jobs import evaluate

    asked = []

    def answers(model, tokenizer, prompts, config, **more):
        asked.append((config.max_tokens, config.temperature))
        return generate_answers(model, tokenizer, prompts, config, **more)

    monkeypatch.setattr(evaluate, "generate_answers", answers)
    monkeypatch.setattr(evaluate, "SAMPLE_TOKENS", 5)
    run = trained("llama")
    evaluate_run(run, samples=1)
    result = evaluate_run(run, samples=1, max_tokens=3)
    assert asked == [(5, 0.0)] * 2 + [(3, 0.0)] * 2
    (sample,) = result.samples
    shown = evaluation_text(result).splitlines()[-2:]
    for name, line in zip(("base", "tuned"), shown, strict=True):
        assert line.endswith("--max-tokens shows more)") == sample[f"{name}_cut"]
    assert sample["base_cut"]


def test_eval_tells_of_every_token_while_it_answers(models, tokenizer):
    from mlx_dpo.models.generate import GenerateConfig
    from mlx_dpo.models.load import load_model

    told = []
    config = GenerateConfig(max_tokens=6, temperature=0)
    model, _ = load_model(models("granite"))
    answers = list(generate_answers(model, tokenizer, [[5, 6], [7, 8, 9]], config, advance=told.append))
    ends = sum(not answer.capped for answer in answers)
    assert sum(told) == sum(answer.tokens for answer in answers) + ends


def test_a_run_that_was_stopped_is_said_to_be_unfinished_with_the_command_that_goes_on(outcome, tmp_path):
    shutil.copytree(EARLIER, tmp_path / "earlier")
    for file in (tmp_path / "earlier").glob("*/config.yaml"):
        file.write_text(file.read_text().replace("FOLDER", str(tmp_path / "earlier")))
    commands = set()
    for command in (["eval", "--samples", "0"], ["fuse", "--output", "fused"]):
        assert "is not finished" not in said_by(outcome, *command, "--run", "earlier/whole")
        shutil.rmtree("fused", ignore_errors=True)
        err = said_by(outcome, *command, "--run", "earlier/stopped")
        assert (
            "WARNING: earlier/stopped is not finished: its last report is of update 6, epoch 1.5 of 6" in err
        )
        commands.add(err.partition("to continue: mlx-dpo ")[2].splitlines()[0])
    (going_on,) = commands
    said_by(outcome, *going_on.split())
    assert rows_of(tmp_path / "earlier" / "stopped")[0][-1]["step"] == 24


def said_by(outcome, *command):
    """What a command that succeeds says beside its result."""
    code, _, err = outcome(*command)
    assert code == 0, err
    return err


@pytest.mark.parametrize("command", ["train --output run", "inspect --no-model"])
def test_curated_rows_are_pointed_to_the_commands_that_take_them(command, outcome, tmp_path, models):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "How?", "answer": "So."}\n')
    code, out, err = outcome(*command.split(), "--data", "rows.jsonl", "--model", models("llama"))
    assert code == 1  # of inspect too: no row can be trained on
    assert "mlx-dpo gen-pairs --source FILE makes pairs from it; mlx-dpo sft" in out + err


def test_a_wrong_value_of_a_flag_is_told_of_the_flag(refused_at):
    refused_at("gen-pairs --max-tokens 0", "--max-tokens", "at least 1, got 0", "maximum length of an answer")


def test_a_run_folder_whose_name_begins_with_a_dash_is_asked_by_the_printed_command():
    assert path_word("-run") == "./-run"
    assert path_word("runs/-run") == "runs/-run"


def test_a_cache_folder_that_cannot_be_is_told_with_the_variables_name(monkeypatch):
    monkeypatch.setenv("MLX_DPO_CACHE", "a" * 300)
    with pytest.raises(DpoError) as caught:
        cache_folder()
    assert caught.value.where == "MLX_DPO_CACHE" and caught.value.hint.startswith("set MLX_DPO_CACHE to ")


def test_a_conversion_writes_here_where_the_files_own_folder_takes_nothing(tmp_path, monkeypatch):
    (tmp_path / "rows.json").write_bytes('{"prompt": "How?"}'.encode("utf-16"))
    monkeypatch.setattr("mlx_dpo.data.file_kinds.os.access", lambda *a: False)
    with pytest.raises(DpoError) as caught:
        open_rows(tmp_path / "rows.json")
    assert caught.value.hint.endswith(f"{tmp_path}/rows.json > rows-rows.jsonl")
