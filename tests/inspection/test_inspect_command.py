"""mlx-dpo inspect, as it is typed: what it prints, what it refuses, and what a run says of its pairs."""

import json
import shlex

import numpy as np
import pytest

from mlx_dpo.config import RunConfig, load_config
from mlx_dpo.data.pair_store import open_pairs
from mlx_dpo.data.row_index import index_rows
from mlx_dpo.data.sources import read_pairs
from mlx_dpo.data.tokenize import tokenize_pairs
from mlx_dpo.forward.pair_logps import PLAIN
from mlx_dpo.forward.scoring import score_pairs, singles
from mlx_dpo.inspection.measures import figures
from mlx_dpo.inspection.report import sampled, short_report
from mlx_dpo.jobs.inspect import plan_of
from mlx_dpo.models.load import load_model
from mlx_dpo.settings import described

from ..support.mistakes import pair


@pytest.fixture
def rows(write_rows, pair_rows):
    """Forty pairs of the project's own data, house style against plain; one row is bad."""
    some = [dict(row) for row in pair_rows[::12]]
    del some[6]["rejected"]
    return write_rows("rows.jsonl", some)


@pytest.fixture
def told(outcome):
    """Run `mlx-dpo inspect`: what it prints."""

    def run(*arguments):
        code, out, err = outcome("inspect", *arguments)
        assert code == 0, err
        return out

    return run


def test_the_whole_output_without_a_model(told, models, write_rows):
    write_rows("rows.jsonl", [pair(), pair(prompt="Why?", chosen="I cannot help."), {"prompt": "How?"}])
    text = told("--data", "rows.jsonl", "--model", models("granite"), "--no-model", "--rows", 1)
    assert text == WHOLE.replace("MODEL", shlex.quote(str(models("granite"))))


WHOLE = """\
rows.jsonl: 3 rows, 2 pairs to train on

errors: a run refuses or drops these rows
  missing-chosen (1): there is no chosen answer
    each line needs "prompt", "chosen" and "rejected"; see data/README.md
      rows.jsonl:3: 'chosen' is missing

warnings: a run trains on these rows
  refusal (1): the chosen answer is a refusal, and the model would learn to refuse
    keep the row only if the model should refuse here
      rows.jsonl:2: chosen: 'I cannot help.'

figures
  length      chosen longer in 50%, median ratio 1.00; picking the longer answer is right in 50%  n 2

rows as the model gets them; scored tokens are between bars
rows.jsonl:1
  <|start_of_role|>user<|end_of_role|>How?<|end_of_text|>⏎<|start_of_role|>assistant<|end_of_role|>  16 tokens
  chosen   |So.<|end_of_text|>|  4 tokens
  rejected |Thus.<|end_of_text|>|  6 tokens

advice
  mend: fix the rows, then inspect again
    errors: 1 in 3 rows; refusal: 1 in 3 rows, above 10%

then
  mlx-dpo inspect --set data.train=rows.jsonl --set data.valid=null --set model.path=MODEL --no-model
"""


def test_another_format_is_told_with_its_first_three_rows_as_they_were_converted(outcome, write_rows, models):
    begun = "\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: How {}?\n\nAssistant: "
    rows = [{"chosen": begun.format(i) + "So.", "rejected": begun.format(i) + "Thus."} for i in range(5)]
    rows[1]["chosen"] = begun.format(1)
    write_rows("hh.jsonl", rows)
    given = ("--data", "hh.jsonl", "--model", models("llama"), "--no-model", "--rows", 0)
    _, out, _ = outcome("inspect", *given)
    assert out.startswith(
        """hh.jsonl: 5 rows, 4 pairs to train on
no pair from 1 row, an answer is empty: hh.jsonl:2

hh.jsonl: HH-RLHF transcripts
  hh.jsonl:1
    prompt    user: Hi. assistant: Hello. user: How 0?
    chosen    So.
    rejected  Thus.
  hh.jsonl:3
"""
    )
    assert out.count("    rejected  Thus.") == 3
    _, out, _ = outcome("inspect", *given, "--json")
    (file,) = json.loads(out)["files"]
    assert file["formats"] == ["hh.jsonl: HH-RLHF transcripts"] and len(file["converted"]) == 3


def test_everything_as_json(forked, models, rows):
    done = forked("inspect", "--data", rows, "--model", models("granite"), "--json", "--rows", 2)
    assert done.wait() == 0, done.stderr
    found = json.loads(done.stdout)
    counts = {"rows": 40, "pairs": 39, "cut_off": 0, "unused": {}}
    assert found["files"] == [{"path": str(rows), **counts, "formats": [], "left_out": "", "converted": []}]
    assert found["defects"] == [
        {
            "severity": "error",
            "file": str(rows),
            "line": 7,
            "code": "missing-rejected",
            "what": "'rejected' is missing",
            "remedy": 'each line needs "prompt", "chosen" and "rejected"; see data/README.md',
        }
    ]
    assert found["kinds"]["missing-rejected"]["count"] == 1
    assert [row["where"] for row in found["rows"]] == [f"{rows}:1", f"{rows}:2"]
    measured = found["figures"]
    assert [measured[name]["n"] for name in ("lengths", "style", "repetition", "likelihood")] == [39] * 4
    assert measured["lengths"]["chosen_longer"] == measured["style"]["accuracy"] == 1
    # Random weights find no answer much less likely than their own.
    own = measured["own"]
    assert own["n"] == 8 and abs(own["sampled"] - own["rejected"]) < 0.5
    assert [a["code"] for a in found["advice"]] == ["mend", "anchor"]
    assert all(command.startswith("mlx-dpo ") for command in found["commands"])


def test_the_figures_of_the_model_are_those_of_the_pairs_worked_out_one_by_one(
    told, models, write_rows, pair_rows, tokenizer
):
    path = write_rows("rows.jsonl", pair_rows[::100])
    likely = json.loads(told("--data", path, "--model", models("granite"), "--json"))["figures"]["likelihood"]
    pairs, _ = tokenize_pairs(read_pairs(path), tokenizer, 1024)
    scores = score_pairs(load_model(models("granite"))[0], pairs, PLAIN, singles(pairs)).astype(np.float64)
    mean = scores / np.array([[len(p.chosen), len(p.rejected)] for p in pairs])
    assert likely["n"] == len(pairs) == 5
    assert likely["chosen"] == pytest.approx(mean[:, 0].mean(), abs=1e-4)
    assert likely["rejected"] == pytest.approx(mean[:, 1].mean(), abs=1e-4)
    assert likely["off_policy"] == pytest.approx((mean[:, 1] - mean[:, 0]).mean(), abs=1e-4)
    assert likely["chosen_less_likely"] == (mean[:, 0] < mean[:, 1]).mean()


def test_more_than_ten_of_a_kind_are_counted(told, models, write_rows):
    write_rows("rows.jsonl", [pair(prompt=f"How {i}?", chosen="\ufffd.") for i in range(12)])
    command = ("--data", "rows.jsonl", "--model", models("granite"), "--no-model")
    text = told(*command)
    assert "\n  replacement-character (12): a character was lost" in text
    assert "rows.jsonl:10: " in text and "rows.jsonl:11: " not in text
    assert "\n      and 2 more; --json lists them all\n" in text
    defects = json.loads(told(*command, "--json"))["defects"]
    assert [d["line"] for d in defects if d["code"] == "replacement-character"] == list(range(1, 13))


def test_a_file_without_one_good_row_is_inspected_too_and_ends_with_1(outcome, models, write_rows):
    write_rows("rows.jsonl", [{"prompt": "How?"}])
    code, out, _ = outcome("inspect", "--data", "rows.jsonl", "--model", models("granite"), "--json")
    found = json.loads(out)
    assert code == 1
    assert (found["figures"]["pairs"], found["rows"]) == (0, [])
    assert [a["code"] for a in found["advice"]] == ["mend"]


def test_the_files_are_those_of_the_settings_or_those_that_are_named(told, models, write_rows):
    write_rows("a.jsonl", [pair()])
    write_rows("b.jsonl", [pair(prompt="Why?")])
    given = ("--model", models("granite"), "--set", "data.train=a.jsonl", "--set", "data.valid=b.jsonl")

    def files(*named):
        found = json.loads(told(*given[:2], *named, "--no-model", "--json"))
        return [file["path"] for file in found["files"]]

    assert files(*given[2:]) == ["a.jsonl", "b.jsonl"]
    assert files("--data", "b.jsonl") == ["b.jsonl"]
    assert files("--data", "b.jsonl", "--valid", "a.jsonl") == ["b.jsonl", "a.jsonl"]
    assert files("--set", "data.train=b.jsonl", "--valid", "a.jsonl") == ["b.jsonl", "a.jsonl"]


@pytest.mark.parametrize(
    ("command", "place", "phrase", "remedy"),
    [
        ("--data rows.jsonl", "rows.jsonl", "no such file", "check the path"),
        ("--data good.jsonl --valid rows.jsonl", "rows.jsonl", "no such file", "check the path"),
        ("--data /usr", "/usr", "is a folder without files of rows", "path of a file"),
        (
            "--set data.max_length=1",
            "--set data.max_length",
            "at least 8, got 1",
            next(help_text for name, _, help_text, _ in described(RunConfig) if name == "data.max_length"),
        ),
        ("--data good.jsonl --model ./no-model", "./no-model", "no such folder", "set model.path"),
    ],
)
def test_mistakes_are_refused(command, place, phrase, remedy, refused_at, write_rows):
    write_rows("good.jsonl", [pair()])
    refused_at(f"inspect {command}", place, phrase, remedy)


def test_a_file_without_rows_is_refused(refused_at, write_rows, models):
    write_rows("rows.jsonl", [])
    command = f"inspect --data rows.jsonl --model {models('granite')} --no-model"
    refused_at(command, "rows.jsonl", "no rows", "data/README.md")


def test_what_a_run_says_of_its_pairs_is_what_inspect_finds(tokenizer, write_rows, pair_rows):
    path = write_rows("rows.jsonl", pair_rows[::12])
    pairs = open_pairs(index_rows(path), tokenizer, 256)
    reference = -np.stack([5.2 * pairs.sizes[:, 1], 0.8 * pairs.sizes[:, 2]], axis=1).astype(np.float32)
    found, advice = sampled(pairs, reference, plan_of(RunConfig(), len(pairs)))
    assert found == figures(pairs, found.likelihood)
    desensitised = load_config(None, ["loss.ld_alpha=0.5"])
    assert sampled(pairs, reference, plan_of(desensitised, len(pairs)))[0] == figures(pairs, None)
    assert found.likelihood.off_policy == pytest.approx(4.4)
    assert [a.code for a in advice] == ["sft_first"]
    said = short_report(found, advice).splitlines()
    assert [line.split()[0] for line in said] == ["length", "style", "likelihood", "advice"]
    assert said[3:] == [
        "advice      sft_first: fine-tune on the chosen answers, then inspect again with that adapter",
    ]
