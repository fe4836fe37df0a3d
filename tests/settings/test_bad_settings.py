"""Settings and arguments that cannot be used: each is refused with its place and a remedy."""

import click
import pytest

from mlx_dpo.cli import main
from mlx_dpo.config import RunConfig
from mlx_dpo.losses import BETA_RULES, LOSSES
from mlx_dpo.settings import described

from ..support.mistakes import IN_BETA, SECTIONS, WRITE_OUT, cases, write

HELP = {name: text for name, _, text, _ in described(RunConfig)}
EPOCHS, RATE, TARGETS = (
    HELP[name] for name in ("training.epochs", "optimizer.learning_rate", "adapter.targets")
)

SETTINGS = {
    "a typo in a section": (
        "modle:\n  path: x\n",
        "run.yaml:1: unknown setting 'modle'",
        "did you mean model?",
    ),
    "a typo in a key": (
        "beta:\n  rule: fixed\n  vlaue: 0.2\n",
        "run.yaml:3: unknown setting 'beta.vlaue'",
        "did you mean beta.value?",
    ),
    "a key like no other": (
        "beta:\n  zzz: 1\n",
        "run.yaml:2: unknown setting 'beta.zzz'",
        f"known here: {IN_BETA}",
    ),
    "a number for a section": ("3: 1\n", "run.yaml:1: unknown setting '3'", SECTIONS),
    "a typo in a choice": (
        "optimizer:\n  schedule: cosin\n",
        "run.yaml:2: optimizer.schedule cannot be 'cosin'",
        "choose from cosine, linear, constant; did you mean cosine?",
    ),
    "text for a number": (
        "training:\n  epochs: two\n",
        "run.yaml:2: training.epochs must be a whole number or null, got 'two'",
        EPOCHS,
    ),
    "a fraction for a whole number": (
        "training:\n  epochs: 1.5\n",
        "run.yaml:2: training.epochs must be a whole number or null, got 1.5",
        EPOCHS,
    ),
    "a value for a section": (
        "beta: 0.2\n",
        "run.yaml:1: beta must be a section of settings, got 0.2",
        f"did you mean beta.value? known there: {IN_BETA}",
    ),
    "a key twice": (
        "beta:\n  value: 0.1\n  value: 0.2\n",
        "run.yaml:3: 'beta.value' is written twice",
        "keep one of the two",
    ),
    "a section twice": (
        "beta:\n  value: 0.1\nloss: {}\nbeta:\n  rule: fixed\n",
        "run.yaml:4: 'beta' is written twice",
        "keep one of the two",
    ),
    "an open bracket": (
        "beta: [1\n",
        "run.yaml:2: not YAML: expected ',' or ']', but got '<stream end>'",
        "check the indentation and the colons around this line",
    ),
    "a tab": (
        "beta:\n\tvalue: 0.1\n",
        r"run.yaml:2: not YAML: found character '\t' that cannot start any token",
        "check the indentation and the colons around this line",
    ),
    "a list": ("- beta\n", "run.yaml: is not a mapping of sections", "mlx-dpo config prints an example"),
    "a setting that holds itself": (
        "model: &m\n  path: *m\n",
        "run.yaml:1: not YAML: lists or sections too deep inside one another",
        WRITE_OUT,
    ),
    "a file that is not UTF-8": (b"\xff\xfe\xff", "run.yaml: is not UTF-8 text", "save the file as UTF-8"),
    "a file of other bytes": (
        "model: \0\n",
        "run.yaml: not YAML: unacceptable character #x0000: special characters are not allowed",
        "check the indentation and the colons around this line",
    ),
    "no file": (None, "run.yaml: no such file", "mlx-dpo config prints one to start from"),
}


@cases(SETTINGS)
@pytest.mark.parametrize("command", ["config", "train"])
def test_a_settings_file_is_refused_with_the_line(command, case, refused, tmp_path):
    content, what, remedy = case
    if content is not None:
        write(tmp_path / "run.yaml", content)
    refused(f"{command} --config run.yaml", what, remedy)


OVERRIDES = {
    "no value": (
        "--set beta.value",
        "--set: 'beta.value' is not section.key=value",
        "for example: --set beta.value=0.2",
    ),
    "no key": (
        "--set beta=0.2",
        "--set beta: beta must be a section of settings, got 0.2",
        f"did you mean beta.value? known there: {IN_BETA}",
    ),
    "an unknown section": (
        "--set bta.value=1",
        "--set bta.value: unknown setting 'bta'",
        "did you mean beta?",
    ),
    "an unknown key": (
        "--set beta.vaule=1",
        "--set beta.vaule: unknown setting 'beta.vaule'",
        "did you mean beta.value?",
    ),
    "a key of a value": (
        "--set beta.value.x=1",
        "--set beta.value.x: beta.value must be a number, got {'x': 1}",
        "beta at the start; larger stays closer to the reference",
    ),
    "a negative learning rate": (
        "--set optimizer.learning_rate=-1e-5",
        "--set optimizer.learning_rate: optimizer.learning_rate must be null or above 0, got -1e-05",
        RATE,
    ),
    "a learning rate that is no number": (
        "--set optimizer.learning_rate=.nan",
        "--set optimizer.learning_rate: optimizer.learning_rate must be a number or null, got nan",
        RATE,
    ),
    "an unknown loss": (
        "--set loss.name=sigmod",
        "--set loss.name: loss.name cannot be 'sigmod'",
        f"choose from {', '.join(LOSSES)}; did you mean sigmoid?",
    ),
    "one layer's name where a list is wanted": (
        "--set adapter.targets=q_proj",
        "--set adapter.targets: adapter.targets must be all or a list of layer names, got 'q_proj'",
        TARGETS,
    ),
    "no layer at all": (
        "--set adapter.targets=[]",
        "--set adapter.targets: adapter.targets must be all or a list of layer names, got []",
        TARGETS,
    ),
    "dropout with checkpointing": (
        "--set adapter.dropout=0.1 --set training.gradient_checkpointing=on",
        "adapter.dropout: dropout cannot be used with gradient checkpointing",
        "set adapter.dropout=0 or training.gradient_checkpointing=off",
    ),
}


@cases(OVERRIDES)
def test_an_override_is_refused_by_its_name(case, refused):
    arguments, what, remedy = case
    refused(f"train {arguments}", what, remedy)


def test_a_flag_is_checked_as_the_setting_it_stands_for(refused):
    refused(
        "gen-pairs --limit many",
        "--limit: pairs.limit must be a whole number or null, got 'many'",
        "number of rows used of each source, from the first; null: all",
    )


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
        "Invalid value for '--memory': nan is no amount of memory.",
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
    assert done.stderr == "Error: run.yaml: no such file\n  mlx-dpo config prints one to start from\n"
    assert mlx_dpo_command("config", "--zzz").returncode == 2
