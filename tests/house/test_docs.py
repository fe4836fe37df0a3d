"""What README, help and notes promise is so."""

import re
import shlex
from pathlib import Path

import click
import pytest

from mlx_dpo.cli import cli
from mlx_dpo.demo.story import story_text
from mlx_dpo.evaluation.preference import Evaluation
from mlx_dpo.losses import LOSSES
from mlx_dpo.records import Curated

from ..conftest import ROOT

README = (ROOT / "README.md").read_text()
COMMANDS = sorted(cli.commands)


def shell_lines(text):
    """Commands in fenced sh blocks, continuation lines joined, comments off."""
    for block in re.findall(r"```sh\n(.*?)```", text, re.S):
        for line in block.replace("\\\n", " ").splitlines():
            if line.split("#")[0].strip():
                yield shlex.split(line.split(" > ")[0], comments=True)


def test_the_demo_output_in_the_readme_has_the_form_of_todays():
    """Every line up to the first question, figures aside."""
    told = {name: ["Gladly!"] * 96 for name in ("base", "adapter", "fused")}
    interval = (0.9, 1.0)
    metrics = {"rewards/accuracies": 1.0}
    result = Evaluation(95, 95, 0, metrics, interval, 0.1, 0.9, interval, interval, [])
    rows = [Curated(({"role": "user", "content": "How?"},), "Gladly!", str(i)) for i in range(96)]
    today = story_text(Path("runs/demo"), result, rows, told, 180.0).strip().split("\n\nQ ")[0]
    shown = re.search(r"```text\n(.*?)\n\nQ ", README, re.S).group(1)
    assert figures_off(shown) == figures_off(today)


def figures_off(text):
    return [re.sub(r"[\d.]+", "#", " ".join(line.split())) for line in text.splitlines()]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_of_itself(name):
    command = cli.commands[name]
    text = command.get_help(click.Context(command, info_name=f"mlx-dpo {name}"))
    examples = re.findall(rf"^\s+(mlx-dpo {name}.*)$", text, re.M)
    assert examples
    for example in examples:
        assert_parses(shlex.split(example.split(">")[0]))


def test_every_mlx_dpo_line_of_the_readme_and_the_configs_parses():
    lines = [line for line in shell_lines(README) if line[0].endswith("mlx-dpo") and line[1] != "--help"]
    assert {line[1] for line in lines} >= set(COMMANDS)
    for path in sorted((ROOT / "config").glob("*.yaml")):
        lines += [shlex.split(m) for m in re.findall(r"^#\s+(mlx-dpo .*)$", path.read_text(), re.M)]
    for line in lines:
        assert_parses(line)


def assert_parses(words):
    """The words are a command with options it has; nothing is run."""
    command = cli.commands[words[1]]
    command.make_context(words[1], words[2:], obj={}).close()


def test_scripts_that_the_readme_names_are_there():
    names = set(re.findall(r"(?:scripts|benchmarks|studies|tests)/[a-z_/]+\.(?:sh|py)", README))
    assert {"scripts/demo.sh", "scripts/test.sh", "scripts/run_granite_dpo.sh"} <= names
    assert all((ROOT / name).is_file() for name in names)


def test_files_that_the_readme_links_are_there():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    assert all((ROOT / link).exists() for link in links)


def test_the_losses_table_is_the_registry():
    table = re.search(r"\| loss \| source \|\n\|[-| ]+\|\n((?:\|.*\n)+)", README).group(1)
    rows = [tuple(cell.strip() for cell in row.strip("|\n").split("|")) for row in table.splitlines()]
    assert rows == [(f"`{name}`", loss.source) for name, loss in LOSSES.items()]


def test_every_registered_loss_names_its_source():
    assert all(re.search(r"\d{4}", loss.source) for loss in LOSSES.values())


def test_the_data_readme_shows_a_true_row_of_every_file():
    text = (ROOT / "data" / "README.md").read_text()
    for path in sorted((ROOT / "data").glob("*.jsonl")):
        assert f"`{path.name}`" in text
        shown = [row for row in path.read_text().splitlines() if row in text]
        assert shown, f"data/README.md shows no row of {path.name}"
