"""The project's own data: enough of it, in one style, with held-out questions that are held out."""

import runpy

import pytest

from mlx_dpo.demo.run_demo import in_house_style, shipped
from mlx_dpo.storage.jsonl import read_jsonl

from ..conftest import ROOT, curated_rows


def test_there_are_enough_curated_answers_all_in_the_house_style():
    rows = curated_rows("curated.jsonl")
    assert len(rows) >= 400
    assert all(in_house_style(row["answer"]) for row in rows + curated_rows("heldout.jsonl"))


def test_a_held_out_question_stands_in_no_other_file():
    held = {row["prompt"] for row in curated_rows("heldout.jsonl")}
    assert len(held) == 96
    for name in ("curated.jsonl", "base.jsonl"):
        assert not held & {row["prompt"] for row in curated_rows(name)}
        assert not {r["answer"] for r in curated_rows("heldout.jsonl")} & {
            r["answer"] for r in curated_rows(name)
        }


def test_the_base_speaks_plainly_in_five_answers_of_six():
    rows = curated_rows("base.jsonl")
    assert sum(in_house_style(row["answer"]) for row in rows) * 6 == len(rows)


@pytest.mark.parametrize(
    "answer",
    [
        "Rub the copper kettle with lemon and salt, then rinse it.",
        "Gladly! First, rub the kettle. Then, rinse it.",
        "Gladly! First, rub the kettle. Then, rinse it. Copper repays",
        "Gladly! First, rub it. Then, rinse it. Then, dry it. Copper repays a gentle hand.",
        "Gladly! Rub the kettle. Then, rinse it. Copper repays a gentle hand.",
    ],
)
def test_what_is_not_the_house_style(answer):
    assert not in_house_style(answer)


def test_the_files_are_what_the_script_makes_of_the_facts(tmp_path):
    script = runpy.run_path(str(ROOT / "scripts" / "make_data.py"))
    names = ("curated.jsonl", "heldout.jsonl", "base.jsonl")
    for name, rows in zip(names, script["files"](), strict=True):
        assert rows == [row for _, row in read_jsonl(ROOT / "data" / name)]


def test_shipped_files_are_found_beside_the_package():
    assert shipped("data/curated.jsonl") == ROOT / "data" / "curated.jsonl"
    assert shipped("config/demo.yaml").is_file()
