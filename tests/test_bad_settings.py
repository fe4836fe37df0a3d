"""Settings and arguments that cannot be used: each is refused with its place and a remedy."""

import dataclasses
import os
import re
import time
import typing

import click
import mlx.core as mx
import pytest

from mlx_dpo.cli import main
from mlx_dpo.config import RunConfig, load_config
from mlx_dpo.errors import DpoError
from mlx_dpo.losses import LOSSES

from .mistakes import SECTIONS, cases, write

EPOCHS = (
    "times every pair is seen; null: until about 24 updates are made, 1 to 6 times, and by sft 100, "
    "2 to 10 times; the run ends earlier when the held-out loss stops falling (patience)"
)
RATE = (
    "peak; for pairs and adapters 5e-6 to 5e-5 is usual, for full training a tenth of that; null: 2e-5 for "
    "pairs, and for sft the rate that a short test on your rows finds"
)

TARGETS = "all linear layers of a block, or a list of their names such as [q_proj, mamba.in_proj]"
WRITE_OUT = "write each setting once, without aliases (*name); mlx-dpo config prints all there are"

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
        "known here: rule, value, risk, beta_dpo",
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
        "did you mean beta.value? known there: rule, value, risk, beta_dpo",
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
        "did you mean beta.value? known there: rule, value, risk, beta_dpo",
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


# ---- what PyYAML, Python or the rest of the program would choke on


def alias_bomb(levels, inner):
    lines = ["a0: &a0 " + inner]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join([*lines, f"data: {{train: *a{levels - 1}}}"])


OUTPUT = "set run.output to the name of a file or folder: the run's folder"
INDENTATION = "check the indentation and the colons around this line"
HOSTILE = {
    "aliases that stand for 9^9 words": (
        alias_bomb(9, "[x, x, x, x, x, x, x, x, x]"),
        "run.yaml:3: not YAML: lists or sections too deep inside one another",
        WRITE_OUT,
    ),
    "aliases that stand for 9^4 words": (
        alias_bomb(5, "x"),
        "run.yaml:1: not YAML: more than 2,000 values",
        WRITE_OUT,
    ),
    "a thousand brackets": (
        "data:\n  train: " + "[" * 1000,
        "run.yaml:2: not YAML: lists or sections too deep inside one another",
        WRITE_OUT,
    ),
    "a thousand dashes": (
        "- " * 1000,
        "run.yaml:1: not YAML: lists or sections too deep inside one another",
        WRITE_OUT,
    ),
    "a large file": (
        "# rows\n" * 8000,
        "run.yaml: is larger than a settings file can be, 50,000 bytes",
        "--config names settings (YAML), data.train the rows",
    ),
    "no character": (
        'run: {output: "\\U7FFFFFFF"}',
        "run.yaml: not YAML: chr() arg not in range(0x110000)",
        INDENTATION,
    ),
    "half of a character": (
        'run: {output: "\\ud83d"}',
        "run.yaml:1: run.output holds half of a character, got '\\ud83d'",
        OUTPUT,
    ),
    "a name that is a list": ("? [a]\n: 1\n", "run.yaml:1: not YAML: a name must be text", INDENTATION),
    "a tag of another kind": (
        "run: !!bool [1]\n",
        "run.yaml:1: not YAML: expected a scalar node, but found sequence",
        INDENTATION,
    ),
    "a number of more digits than Python writes": (
        f"training:\n  seed: 0x{'f' * 5000}\n",
        "run.yaml:2: training.seed must be at most 18446744073709551615, got a number of thousands of digits",
        "of the adapter's first values and of the order of pairs",
    ),
    "a number of more digits than Python reads": (
        f"training:\n  seed: {'1' * 5000}\n",
        f"run.yaml:2: training.seed must be a whole number, got '{'1' * 79}... (5,002 characters)",
        "of the adapter's first values and of the order of pairs",
    ),
    "a long value": (
        f"adapter: {{rank: {'x' * 20_000}}}\n",
        f"run.yaml:1: adapter.rank must be a whole number, got '{'x' * 79}... (20,002 characters)",
        "width of the low-rank update; more can learn more and costs memory",
    ),
    "a time where a number is wanted": (
        "training: {seed: 1:30}\n",
        "run.yaml:1: training.seed must be a whole number, got '1:30'",
        "of the adapter's first values and of the order of pairs",
    ),
}


@cases(HOSTILE)
def test_a_hostile_settings_file_is_refused_at_once(case, refused, tmp_path):
    content, what, remedy = case
    write(tmp_path / "run.yaml", content)
    start = time.process_time()
    refused("config --config run.yaml", what, remedy)
    assert time.process_time() - start < 1


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_settings_are_read_from_plain_files_only(kind, refused, tmp_path):
    make = os.mkfifo if kind == "pipe" else os.mkdir
    make(tmp_path / "run.yaml")
    refused("config --config run.yaml", "run.yaml: is not a file", "name a YAML text file")


@pytest.mark.parametrize(
    "text", ["2024-13-45", "2024-02-30", "0b_", "0x_", "!!bool abc", "1:30", "1" * 5000 + "/", "=", "<<"]
)
def test_what_only_looks_like_a_number_or_a_date_is_text(text, tmp_path):
    """In a file as in an override; a folder of that name can be given."""
    if "/" in text:  # longer than a name can be, but no traceback
        with pytest.raises(DpoError, match="is longer than a file's name can be"):
            load_config(None, [f"run.output={text}"])
        return
    assert load_config(None, [f"run.output={text}"]).run.output == text
    (tmp_path / "run.yaml").write_text(f"run:\n  output: {text}\n")
    assert load_config(tmp_path / "run.yaml").run.output == text.removeprefix("!!bool ")


@pytest.mark.parametrize("text", ["!!bool abc", "!!timestamp abc", "!!int ''", "!!float x", "2024-02-30"])
def test_a_tag_that_does_not_fit_its_value_makes_it_text(text):
    with pytest.raises(DpoError, match=r"beta\.value must be a number, got '"):
        load_config(None, [f"beta.value={text}"])


def test_a_value_of_brackets_and_a_name_of_dots_are_refused():
    with pytest.raises(DpoError, match=r"adapter\.targets must be all or a list of layer names, got '\[\["):
        load_config(None, ["adapter.targets=" + "[" * 1000])
    with pytest.raises(DpoError, match=r"is not section\.key=value"):
        load_config(None, ["a." * 1500 + "b=1"])


# ---- numbers


def numeric(kind=RunConfig, prefix=""):
    """(dotted name, field) of every setting that takes numbers."""
    hints = typing.get_type_hints(kind)
    for f in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[f.name]):
            yield from numeric(hints[f.name], f"{prefix}{f.name}.")
        elif {int, float, list[float]} & {hints[f.name], *typing.get_args(hints[f.name])}:
            yield f"{prefix}{f.name}", f


NUMERIC = dict(numeric())


def test_every_number_is_bounded_on_both_sides():
    assert len(NUMERIC) > 50
    for name, f in NUMERIC.items():
        bounds = f.metadata["bounds"]
        assert {"least", "above"} & {*bounds}, name
        assert {"most", "below"} & {*bounds}, name


@pytest.mark.parametrize("name", NUMERIC)
@pytest.mark.parametrize("text", ["1" + "0" * 30, "-1" + "0" * 30])
def test_a_number_beyond_its_bound_is_refused_with_the_bound_and_the_help(name, text):
    value = f"[{text}]" if name == "loss.weights" else text
    with pytest.raises(DpoError) as caught:
        load_config(None, [f"{name}={value}"])
    words = (
        r"must be (null or )?(at most|below) " if text[0] == "1" else r"must be (null or )?(at least|above) "
    )
    assert re.match(f"{re.escape(name)} {words}\\S+, got -?1", caught.value.what)
    assert (caught.value.where, caught.value.hint) == (f"--set {name}", NUMERIC[name].metadata["help"])


@pytest.mark.parametrize(
    ("assignment", "what"),
    [
        (
            "training.seed=18446744073709551616",
            "training.seed must be at most 18446744073709551615, got 18446744073709551616",
        ),
        ("training.memory_limit=1e300", "training.memory_limit must be null or at most 100000, got 1e+300"),
        ("training.samples=1000000000000000000", None),
        ("training.keep_checkpoints=1000000000000000000000000000000", None),
        ("beta.value=1e308", "beta.value must be at most 1000000, got 1e+308"),
        ("beta.value=1e-308", "beta.value must be at least 1e-06, got 1e-308"),
        ("generate.temperature=1e-300", "generate.temperature must be 0 or at least 0.001, got 1e-300"),
        ("adapter.layers=0", "adapter.layers must be -1 or at least 1, got 0"),
    ],
)
def test_numbers_that_nothing_can_be_computed_with_are_refused(assignment, what):
    with pytest.raises(DpoError) as caught:
        load_config(None, [assignment])
    assert what is None or caught.value.what == what


def test_the_largest_seed_is_one_that_mlx_takes():
    seed = load_config(None, [f"training.seed={2**64 - 1}"]).training.seed
    mx.random.seed(seed)
    assert len(mx.random.key(seed)) == 2
    mx.random.seed(0)


@pytest.mark.parametrize("command", ["inspect --rows", "eval --run run --samples", "plan --memory"])
def test_an_options_number_is_bounded_too(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "1" + "0" * 30])
    assert stop.value.code == 2
    assert "<=x<=100000" in capsys.readouterr().err


def test_a_flag_is_checked_as_the_setting_it_stands_for(refused):
    refused(
        "gen-pairs --limit many",
        "--set pairs.limit: pairs.limit must be a whole number or null, got 'many'",
        "use only the first so many rows of each source; null uses all",
    )


# ---- usage


USAGE = {
    "an unknown option": ("train --zzz", click.NoSuchOption("--zzz").format_message()),
    "an argument too many": ("train rows.jsonl", "Got unexpected extra argument (rows.jsonl)"),
    "eval without a run": ("eval", "Missing option '--run'."),
    "fuse without an output": ("fuse --run runs/a", "Missing option '--output'."),
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
