"""The demo of topic models: its corpus, its steps in short, and the commands that it prints."""

import json
import shlex
from collections import Counter
from dataclasses import replace

import click
import pytest

from mlx_dpo.cli import cli
from mlx_dpo.demo.demo_folder import shipped
from mlx_dpo.demo.run_topics_demo import run_steps, topics_demo_config, topics_text


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The folder of a demo of six epochs, and what it prints in the end."""
    folder = tmp_path_factory.mktemp("demo")
    config = topics_demo_config(folder)
    short = replace(
        config,
        training=replace(config.training, epochs=6, report_epochs=1),
        dpo=replace(config.dpo, start_epoch=4),
    )
    return folder, topics_text(folder, *run_steps(short), 1.0)


def test_the_corpus_has_whole_passages_of_all_periods():
    rows = [json.loads(line) for line in shipped("data/addresses.jsonl").read_text().splitlines()]
    assert len({row["text"] for row in rows}) == len(rows) == 1272
    assert all(60 <= len(row["text"].split()) <= 120 for row in rows)
    unended = [row["year"] for row in rows if row["text"].rstrip("\"')")[-1] not in ".?!"]
    assert unended == [1932]  # its address ends with a table
    for row in rows:
        first, last = map(int, row["period"].split("-"))
        assert first <= row["year"] <= last
    assert min(Counter(row["period"] for row in rows).values()) > 300


def test_the_demo_goes_from_texts_to_a_page(told):
    folder, text = told
    assert (folder / "run" / "report.html").is_file()
    assert (folder / "run" / "preferences" / "dpo_selected_topics.jsonl").read_text()
    assert "topics with preferences kept" in text
    assert "254 held-out passages, 3 periods: purity" in text
    assert text.count("before  ") == text.count("after   ") == 3
    assert f"the page to look at: {folder / 'run' / 'report.html'}" in text


def test_the_commands_of_the_demo_are_commands(told):
    _, text = told
    commands = [shlex.split(line) for line in text.splitlines() if line.startswith("  mlx-dpo ")]
    assert [words[2] for words in commands] == ["prepare", "train", "eval", "report"]
    for words in commands:
        command = cli.commands["topics"].commands[words[2]]
        command.make_context(words[2], words[3:], obj={}, parent=click.Context(cli)).close()


def test_an_earlier_demo_is_not_replaced_by_itself(tmp_path, refused_at):
    (tmp_path / "old" / "run").mkdir(parents=True)
    refused_at("topics demo --output old", "old", "contains a demo already", "--overwrite")
