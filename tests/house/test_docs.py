"""What README, docs/ and help promise is so."""

import ast
import json
import re
import shlex
from pathlib import Path

import click
import pytest
import yaml

import mlx_dpo
from mlx_dpo.cli import cli
from mlx_dpo.config import RunConfig, load_config
from mlx_dpo.demo.run_demo import story_text
from mlx_dpo.evaluation.preference import Evaluation
from mlx_dpo.inspection.advice import ADVICE
from mlx_dpo.inspection.defects import KINDS
from mlx_dpo.inspection.scan import scan  # noqa: F401  (it imports every file that fills KINDS)
from mlx_dpo.losses import BETA_RULES, LOSSES
from mlx_dpo.monitoring.alarms import CHECKS
from mlx_dpo.records import Curated
from mlx_dpo.settings import as_plain
from mlx_dpo.topics.config import TopicsConfig, load_topics_config

from ..conftest import ROOT

PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in [ROOT / "README.md", ROOT / "data" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
}
LINKING = PAGES | {name: (ROOT / name).read_text() for name in ("CHANGELOG.md", "DECISIONS.md")}
COMMANDS = sorted(cli.commands)
GENERATED = ("data/pairs", "data/own-pairs", "data/topics")
"""Folders of data/ that commands in the docs write."""


def blocks(text, language):
    """The fenced blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def shell_lines(text):
    """Commands in fenced sh blocks, continuation lines joined, comments off."""
    for block in blocks(text, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            if line.split("#")[0].strip():
                yield shlex.split(line.split(" > ")[0], comments=True)


def table(text, *head):
    """The rows below this head, each a tuple of cells."""
    line = re.escape("| " + " | ".join(head) + " |")
    found = re.search(line + r"\n\|[-| ]+\|\n((?:\|.*\n)+)", text)
    return [tuple(cell.strip() for cell in row.strip("|\n").split("|")) for row in found[1].splitlines()]


def plain(text):
    """Without what stands in fenced blocks."""
    return re.sub(r"```.*?```", "", text, flags=re.S)


def test_the_readme_has_at_most_150_lines():
    assert len(PAGES["README.md"].splitlines()) <= 150


def test_the_demo_output_in_the_readme_has_the_form_of_todays():
    """Every line up to the first question, figures aside."""
    told = {name: ["Gladly!"] * 96 for name in ("base", "adapter", "fused")}
    interval = (0.9, 1.0)
    metrics = {"rewards/accuracies": 1.0}
    result = Evaluation(95, 95, 0, metrics, interval, 0.1, 0.9, interval, interval, [])
    rows = [Curated(({"role": "user", "content": "How?"},), "Gladly!", str(i)) for i in range(96)]
    today = story_text(Path("runs/demo"), result, rows, told, 180.0).strip().split("\n\nQ ")[0]
    shown = re.search(r"```text\n(.*?)\n\nQ ", PAGES["README.md"], re.S).group(1)
    assert figures_off(shown) == figures_off(today)


def figures_off(text):
    return [re.sub(r"[\d.]+", "#", " ".join(line.split())) for line in text.splitlines()]


def test_the_tree_in_the_readme_has_every_room_and_nothing_else():
    shown = re.search(r"## The tree\n\n```text\n(.*?)```", PAGES["README.md"], re.S)[1]
    rooms = re.findall(r"^  (\w+)/ ", shown, re.M)
    assert sorted(rooms) == sorted(path.parent.name for path in (ROOT / "mlx_dpo").glob("*/__init__.py"))
    beside = [name for line in shown.splitlines()[1:] for name in re.findall(r"^(\w+)/(?:  (\w+)/)?", line)]
    assert all((ROOT / name).is_dir() for names in beside for name in names if name)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_of_itself(name):
    command = cli.commands[name]
    text = command.get_help(click.Context(command, info_name=f"mlx-dpo {name}"))
    examples = re.findall(rf"^\s+(mlx-dpo {name}.*)$", text, re.M)
    assert examples
    for example in examples:
        assert_parses(shlex.split(example.split(">")[0]))


def test_every_mlx_dpo_line_of_the_docs_and_the_configs_parses_and_every_command_is_shown():
    lines = [line for text in PAGES.values() for line in shell_lines(text)]
    lines = [line for line in lines if line[0].endswith("mlx-dpo") and line[1] != "--help"]
    assert {line[1] for line in lines} >= set(COMMANDS)
    for path in sorted((ROOT / "config").glob("*.yaml")):
        lines += [shlex.split(m) for m in re.findall(r"^#\s+(mlx-dpo .*)$", path.read_text(), re.M)]
    for line in lines:
        assert_parses(line)
        load = load_topics_config if line[1] == "topics" else load_config
        load(None, [line[i + 1] for i, word in enumerate(line) if word == "--set"])


def assert_parses(words):
    """The words are a command with options it has; nothing is run."""
    command, rest = cli.commands[words[1]], words[2:]
    if isinstance(command, click.Group):
        command, rest = command.commands[rest[0]], rest[1:]
    command.make_context(words[1], rest, obj={}).close()


@pytest.mark.parametrize("page", LINKING)
def test_every_link_leads_to_a_file_and_to_a_heading_in_it(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", plain(LINKING[page])):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.is_file(), f"{page}: {link}"
        if anchor:
            assert anchor in anchors(target.read_text()), f"{page}: {link}"


def anchors(text):
    """What a heading is called in a link: lower case, words joined by hyphens, no other signs."""
    headings = re.findall(r"^#+ (.*)$", plain(text), re.M)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_path_of_the_repository_that_a_page_names_is_there(page):
    rooms = "mlx_dpo|docs|scripts|benchmarks|studies|examples|tests|config|data"
    for path in re.findall(rf"(?<![\w/.-])(?:{rooms})/[\w./-]*\w", PAGES[page]):
        assert path.startswith(GENERATED) or (ROOT / path).exists(), f"{page}: {path}"
    for module in re.findall(r"python -m (tests[\w.]+)", PAGES[page]):
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), f"{page}: {module}"


@pytest.mark.parametrize("page", PAGES)
def test_every_setting_that_a_page_names_exists(page):
    sections = as_plain(TopicsConfig() if page == "docs/topics.md" else RunConfig())
    named = re.findall(rf"`({'|'.join(sections)})\.([a-z_.]+)(?:[=:][^`]*)?`", plain(PAGES[page]))
    for section, key in named:
        if f".{key.rsplit('.', 1)[-1]}" in (".md", ".py", ".yaml", ".jsonl", ".html", ".safetensors"):
            continue
        place = sections[section]
        for part in key.split("."):
            assert part in place or place == {}, f"{page}: {section}.{key}"
            place = place.get(part)


@pytest.mark.parametrize("page", PAGES)
def test_blocks_of_yaml_json_and_python_can_be_read(page, tmp_path):
    for block in blocks(PAGES[page], "yaml"):
        (tmp_path / "settings.yaml").write_text(block)
        load_config(tmp_path / "settings.yaml")
    for block in blocks(PAGES[page], "json"):
        assert all(isinstance(json.loads(line), dict) for line in block.splitlines())
    for block in blocks(PAGES[page], "python"):
        ast.parse(block)


def test_python_in_the_docs_uses_public_names_and_one_page_lists_them_all():
    public = set(mlx_dpo.__all__) - {"__version__", "blas_note"}
    python = "\n".join(block for text in PAGES.values() for block in blocks(text, "python"))
    assert set(re.findall(r"\bmlx_dpo\.(\w+)", python)) <= public
    listed = {
        name for row in table(PAGES["docs/python.md"], "name", "what it gives") for name in row[0].split(", ")
    }
    assert listed == {f"`{name}`" for name in public}


def test_the_losses_table_is_the_registry():
    rows = table(PAGES["docs/losses.md"], "loss", "source")
    assert rows == [(f"`{name}`", loss.source) for name, loss in LOSSES.items()]


def test_the_table_of_options_is_what_the_losses_take():
    rows = table(PAGES["docs/losses.md"], "loss", "option", "default", "meaning")
    assert [row[:3] for row in rows] == [
        (f"`{name}`", f"`{option}`", str(known.default))
        for name, loss in LOSSES.items()
        for option, known in loss.options.items()
    ]


def test_every_registered_loss_names_its_source():
    assert all(re.search(r"\d{4}", loss.source) for loss in LOSSES.values())


def test_the_table_of_beta_rules_is_the_registry():
    rows = table(PAGES["docs/beta.md"], "`beta.rule`", "what it does", "source")
    assert [(name, source) for name, _, source in rows] == [
        (f"`{name}`", rule.source) for name, rule in BETA_RULES.items()
    ]


def test_the_table_of_alarms_has_every_alarm_and_says_which_end_a_run():
    page = PAGES["docs/alarms.md"]
    rows = table(page, "alarm", "raised when", "ends the run")
    assert [(row[0].strip("`"), row[2] == "yes") for row in rows] == [
        (name, check.ruin) for name, check in CHECKS.items()
    ]
    assert [row[0].strip("`") for row in table(page, "alarm", "meaning", "remedy")] == list(CHECKS)


def test_the_page_on_inspection_has_every_advice_and_counts_the_kinds_of_defects():
    page = PAGES["docs/inspection.md"]
    assert [row[0].strip("`") for row in table(page, "code", "when", "what to do")] == list(ADVICE)
    assert f"{len(KINDS)} kinds" in " ".join(page.split())


@pytest.mark.parametrize(
    "script, page",
    [
        ("studies/real_model.py", "docs/real_model.md"),
        ("studies/study_hard_case.py", "docs/hard_case.md"),
        ("studies/study_defaults.py", "docs/defaults.md"),
        ("studies/study_noise.py", "docs/noise.md"),
        ("tests/long/check_faults.py", "docs/checks.md"),
    ],
)
def test_a_page_that_a_script_writes_has_the_words_of_the_script(script, page):
    """Paragraphs without figures; running the script again would otherwise undo what was said better."""
    written = re.search(r'"""(?:\\\n)?(# .*?)"""', (ROOT / script).read_text(), re.S)[1]
    paragraphs = [" ".join(p.split()) for p in written.split("\n\n") if "{" not in p]
    assert paragraphs
    shown = " ".join(PAGES[page].split())
    assert [p for p in paragraphs if p not in shown] == []


def test_the_site_has_every_page():
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    listed = re.findall(r"\w+\.md", json.dumps(site["nav"]))
    others = ["rows.md", "changelog.md", "decisions.md"]  # scripts/docs_pages.py adds them
    assert sorted(listed) == sorted([*(path.name for path in (ROOT / "docs").glob("*.md")), *others])


def test_the_pictures_in_docs_are_small():
    assert all(path.stat().st_size < 200_000 for path in (ROOT / "docs").glob("*.[ps][nv]g"))


def test_the_data_readme_shows_a_true_row_of_every_file():
    text = PAGES["data/README.md"]
    for path in sorted((ROOT / "data").glob("*.jsonl")):
        assert f"`{path.name}`" in text
        shown = [row for row in path.read_text().splitlines() if row in text]
        assert shown, f"data/README.md shows no row of {path.name}"
