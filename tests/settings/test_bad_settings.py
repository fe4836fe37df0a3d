"""Settings and arguments that cannot be used: each is refused with its place and a remedy."""

import click
import pytest

from mlx_dpo.cli import main
from mlx_dpo.config import RunConfig
from mlx_dpo.losses import BETA_RULES, LOSSES
from mlx_dpo.settings import described

from ..support.mistakes import ALIASES, IN_BETA, SECTIONS, cases, write

HELP = {name: text for name, _, text, _ in described(RunConfig)}
EPOCHS, RATE, TARGETS = (
    HELP[name] for name in ("training.epochs", "optimizer.learning_rate", "adapter.targets")
)

SETTINGS = {
    "a typo in a section": ("modle:\n  path: x\n", "run.yaml:1", "'modle'", "did you mean model?"),
    "a typo in a key": (
        "beta:\n  rule: fixed\n  vlaue: 0.2\n",
        "run.yaml:3",
        "'beta.vlaue'",
        "did you mean beta.value?",
    ),
    "a key like no other": ("beta:\n  zzz: 1\n", "run.yaml:2", "'beta.zzz'", IN_BETA),
    "a number for a section": ("3: 1\n", "run.yaml:1", "'3'", SECTIONS),
    "a typo in a choice": (
        "optimizer:\n  schedule: cosin\n",
        "run.yaml:2",
        "optimizer.schedule cannot be 'cosin'",
        "cosine, linear, constant; did you mean cosine?",
    ),
    "text for a number": ("training:\n  epochs: two\n", "run.yaml:2", "got 'two'", EPOCHS),
    "a fraction for a whole number": (
        "training:\n  epochs: 1.5\n",
        "run.yaml:2",
        "training.epochs must be a whole number or null, got 1.5",
        EPOCHS,
    ),
    "a value for a section": (
        "beta: 0.2\n",
        "run.yaml:1",
        "got 0.2",
        f"did you mean beta.value? known there: {IN_BETA}",
    ),
    "a key twice": ("beta:\n  value: 0.1\n  value: 0.2\n", "run.yaml:3", "'beta.value'", "keep one"),
    "a section twice": (
        "beta:\n  value: 0.1\nloss: {}\nbeta:\n  rule: fixed\n",
        "run.yaml:4",
        "'beta' is written twice",
        "keep one",
    ),
    "an open bracket": ("beta: [1\n", "run.yaml:2", "expected ',' or ']'", "indentation"),
    "a tab": ("beta:\n\tvalue: 0.1\n", "run.yaml:2", r"'\t'", "indentation"),
    "a list": ("- beta\n", "run.yaml", "mapping of sections", "mlx-dpo config"),
    "a setting that holds itself": ("model: &m\n  path: *m\n", "run.yaml:1", "too deeply", ALIASES),
    "a file that is not UTF-8": (b"\xff\xfe\xff", "run.yaml", "UTF-8", "UTF-8"),
    "a file of other bytes": ("model: \0\n", "run.yaml", "#x0000", "indentation"),
    "no file": (None, "run.yaml", "no such file", "mlx-dpo config"),
}


@cases(SETTINGS)
@pytest.mark.parametrize("command", ["config", "train"])
def test_a_settings_file_is_refused_with_the_line(command, case, refused_at, tmp_path):
    content, *told = case
    if content is not None:
        write(tmp_path / "run.yaml", content)
    refused_at(f"{command} --config run.yaml", *told)


OVERRIDES = {
    "no value": ("--set beta.value", "--set", "'beta.value'", "--set beta.value=0.2"),
    "no key": (
        "--set beta=0.2",
        "--set beta",
        "got 0.2",
        f"did you mean beta.value? known there: {IN_BETA}",
    ),
    "an unknown section": ("--set bta.value=1", "--set bta.value", "'bta'", "did you mean beta?"),
    "an unknown key": (
        "--set beta.vaule=1",
        "--set beta.vaule",
        "'beta.vaule'",
        "did you mean beta.value?",
    ),
    "a key of a value": (
        "--set beta.value.x=1",
        "--set beta.value.x",
        "beta.value must be a number, got {'x': 1}",
        HELP["beta.value"],
    ),
    "a negative learning rate": (
        "--set optimizer.learning_rate=-1e-5",
        "--set optimizer.learning_rate",
        "above 0, got -1e-05",
        RATE,
    ),
    "a learning rate that is no number": (
        "--set optimizer.learning_rate=.nan",
        "--set optimizer.learning_rate",
        "got nan",
        RATE,
    ),
    "an unknown loss": (
        "--set loss.name=sigmod",
        "--set loss.name",
        "'sigmod'",
        f"{', '.join(LOSSES)}; did you mean sigmoid?",
    ),
    "one layer's name where a list is wanted": (
        "--set adapter.targets=q_proj",
        "--set adapter.targets",
        "got 'q_proj'",
        TARGETS,
    ),
    "no layer at all": ("--set adapter.targets=[]", "--set adapter.targets", "got []", TARGETS),
    "dropout with checkpointing": (
        "--set adapter.dropout=0.1 --set training.gradient_checkpointing=on",
        "adapter.dropout",
        "gradient checkpointing",
        "set adapter.dropout=0 or training.gradient_checkpointing=off",
    ),
}


@cases(OVERRIDES)
def test_an_override_is_refused_by_its_name(case, refused_at):
    arguments, *told = case
    refused_at(f"train {arguments}", *told)


def test_a_flag_is_checked_as_the_setting_it_stands_for(refused_at):
    refused_at("gen-pairs --limit many", "--limit", "pairs.limit must be a whole number", HELP["pairs.limit"])


# ---- usage


USAGE = {
    "an unknown option": ("train --zzz", click.NoSuchOption("--zzz").format_message()),
    "an argument too many": ("train rows.jsonl", "Got unexpected extra argument (rows.jsonl)"),
    "eval without a run": ("eval", "Missing option '--run'."),
    "fuse without an output": ("fuse --run runs/a", "Missing option '--output'."),
    "a rule for beta that there is not": (
        "demo --beta-rule riks",
        f"Invalid value for '--beta-rule': 'riks' is not one of {', '.join(map(repr, BETA_RULES))}.",
    ),
    "an amount that is none": (
        "plan --memory nan",
        "Invalid value for '--memory': nan is not an amount of memory.",
    ),
    "an endless amount": (
        "plan --memory inf",
        "Invalid value for '--memory': inf is not in the range 1<=x<=100000.",
    ),
    "a number out of range": (
        "eval --run runs/a --samples -1",
        "Invalid value for '--samples': -1 is not in the range 0<=x<=100000.",
    ),
}


@cases(USAGE)
def test_wrong_usage_ends_with_2_and_points_to_the_help(case, capsys):
    command, what = case
    name = command.split()[0]
    with pytest.raises(SystemExit) as stop:
        main(command.split())
    out, err = capsys.readouterr()
    assert (stop.value.code, out) == (2, "")
    assert err == f"Usage: mlx-dpo {name} [OPTIONS]\nTry 'mlx-dpo {name} --help' for help.\n\nError: {what}\n"


def test_a_process_ends_with_these_codes(mlx_dpo_command, tmp_path):
    done = mlx_dpo_command("config", "--config", "run.yaml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: run.yaml: no such file\n  ")
    assert mlx_dpo_command("config", "--zzz").returncode == 2
