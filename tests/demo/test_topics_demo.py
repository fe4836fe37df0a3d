"""The demo of topic models: whole, on the texts that come with the project."""

import json
import re

from mlx_dpo.demo.topics_demo import write_texts


def test_the_texts_are_the_answers_and_their_materials(tmp_path):
    write_texts(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert (len(rows), len({row["label"] for row in rows})) == (480, 12)
    assert rows[0]["text"].startswith("Gladly! First, rub the copper pan") and rows[0]["label"] == "copper"
    assert len((tmp_path / "test.jsonl").read_text().splitlines()) == 96


def test_the_demo_shows_words_before_and_after_and_is_not_replaced_silently(tmp_path, outcome):
    code, said, errors = outcome("topics", "demo", "--output", "demo")
    assert code == 0, errors
    chosen = (
        (tmp_path / "demo" / "run" / "preferences" / "dpo_selected_topics.jsonl").read_text().splitlines()
    )
    assert f"Preferences for {len(chosen)} topics of 12:" in said
    assert len(re.findall(r"^topic \d+ +before  ", said, re.M)) == len(chosen) > 0
    purity = float(said.split("purity ")[1].split(",")[0])
    assert purity > 0.9
    code, _, errors = outcome("topics", "demo", "--output", "demo")
    assert code == 1 and "contains a demo already" in errors
