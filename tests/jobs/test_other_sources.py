"""Runs on data that is not one JSONL file: the same pairs are the same run, wherever they come from."""

import gzip
import json
from pathlib import Path

import pytest

from mlx_dpo.config import load_config
from mlx_dpo.errors import DpoError
from mlx_dpo.jobs.gen_pairs import generate_pairs
from mlx_dpo.jobs.resume import check_same, run_key
from mlx_dpo.jobs.train import _with_absolute_paths

from ..support.mistakes import lines, pair
from ..support.runs import train_pairs


def table(rows):
    head, *names = ("prompt,chosen,rejected", "prompt", "chosen", "rejected")
    cells = [",".join('"' + row[name].replace('"', '""') + '"' for name in names) for row in rows]
    return "\n".join([head, *cells, ""])


def test_a_run_is_compared_by_its_pairs_wherever_they_come_from(configure, tmp_path):
    config = configure("llama", train=8)
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    (tmp_path / "a.csv").write_text(table(rows[:5]))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines(*rows[5:]).encode()))
    listed = configure("llama", f"data.train=[{tmp_path}/a.csv, {tmp_path}/b.jsonl.gz]", train=8)
    base = Path(config.model.path)

    def key(own):
        pairs = train_pairs(own)
        assert len(pairs) == 8
        return run_key(own, base, pairs, None)

    before = key(config)
    check_same(before, key(listed), tmp_path)
    (tmp_path / "a.csv").write_text(table([*rows[:4], {**rows[4], "chosen": "Something else."}]))
    with pytest.raises(DpoError, match=r"the pairs \(data.train\) changed"):
        check_same(before, key(listed), tmp_path)


def test_a_run_folder_keeps_the_full_path_of_every_file_and_the_name_of_a_data_set(
    configure, write_rows, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write_rows("a.jsonl", [pair()])
    config = _with_absolute_paths(configure("llama", "data.train=[a.jsonl, org/pairs:train]"))
    assert config.data.train == [f"{tmp_path}/a.jsonl", "org/pairs:train"]


def test_a_held_out_prompt_in_any_file_of_the_training_list_is_refused(refused_at, write_rows):
    write_rows("a.jsonl", [pair()])
    write_rows("b.jsonl", [pair(prompt="Why?")])
    write_rows("valid.jsonl", [pair(prompt="Who?"), pair(prompt=" WHY? ")])
    command = "train --data a.jsonl --data b.jsonl --valid valid.jsonl --model ./no-model --output out"
    refused_at(command, "valid.jsonl", "valid.jsonl:2", "remove these rows")


def test_gen_pairs_takes_rows_with_one_answer_of_another_tool(tmp_path, models):
    alpaca = [{"instruction": "Clean", "input": f"pan {i}", "output": f"Rub pan {i}."} for i in range(6)]
    (tmp_path / "alpaca.json").write_text(json.dumps(alpaca))
    (tmp_path / "more.jsonl").write_text(lines({"prompt": "Why?", "answer": "So."}))
    settings = [f"pairs.source=[{tmp_path}/alpaca.json, {tmp_path}/more.jsonl]", "generate.max_tokens=4"]
    settings += [f"pairs.output={tmp_path}/pairs", "pairs.valid_fraction=0"]
    counts = generate_pairs(load_config(None, [f"model.path={models('llama')}", *settings]))
    assert counts.rows == 7
    made = [json.loads(line) for line in (tmp_path / "pairs" / "train.jsonl").read_text().splitlines()]
    assert {row["prompt"] for row in made} <= {"Why?", *(f"Clean\n\npan {i}" for i in range(6))}
