"""Settings that PyYAML, Python or the maths would choke on: refused at once, with the bound or the remedy."""

import dataclasses
import os
import re
import time
import typing

import mlx.core as mx
import pytest

from mlx_dpo.cli import main
from mlx_dpo.config import RunConfig, load_config
from mlx_dpo.errors import DpoError

from ..support.mistakes import ALIASES, cases, write


def alias_bomb(levels, inner):
    lines = ["a0: &a0 " + inner]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join([*lines, f"data: {{train: *a{levels - 1}}}"])


SEED = "seed of the adapter's initial values and of the order of the pairs"
HOSTILE = {
    "aliases that stand for 9^9 words": (
        alias_bomb(9, "[x, x, x, x, x, x, x, x, x]"),
        "run.yaml:1",
        "more than 2,000 values",
        ALIASES,
    ),
    "aliases that stand for 9^4 words": (alias_bomb(5, "x"), "run.yaml:1", "more than 2,000 values", ALIASES),
    "a thousand brackets": ("data:\n  train: " + "[" * 1000, "run.yaml:2", "too deeply", ALIASES),
    "a thousand dashes": ("- " * 1000, "run.yaml:1", "too deeply", ALIASES),
    "a large file": ("# rows\n" * 8000, "run.yaml", "50,000 bytes", "data.train"),
    "no character": ('run: {output: "\\U7FFFFFFF"}', "run.yaml", "chr()", "indentation"),
    "half of a character": (
        'run: {output: "\\ud83d"}',
        "run.yaml:1",
        r"got '\ud83d'",
        "set run.output to the name of a file or folder",
    ),
    "a name that is a list": ("? [a]\n: 1\n", "run.yaml:1", "a name must be text", "indentation"),
    "a tag of another kind": ("run: !!bool [1]\n", "run.yaml:1", "found sequence", "indentation"),
    "a number of more digits than Python writes": (
        f"training:\n  seed: 0x{'f' * 5000}\n",
        "run.yaml:2",
        "at most 18446744073709551615, got a number of thousands of digits",
        SEED,
    ),
    "a number of more digits than Python reads": (
        f"training:\n  seed: {'1' * 5000}\n",
        "run.yaml:2",
        f"got '{'1' * 79}... (5,002 characters)",
        SEED,
    ),
    "a long value": (
        f"adapter: {{rank: {'x' * 20_000}}}\n",
        "run.yaml:1",
        f"got '{'x' * 79}... (20,002 characters)",
        "rank of the update",
    ),
    "a time where a number is wanted": ("training: {seed: 1:30}\n", "run.yaml:1", "got '1:30'", SEED),
}


@cases(HOSTILE)
def test_a_hostile_settings_file_is_refused_at_once(case, refused_at, tmp_path):
    content, *told = case
    write(tmp_path / "run.yaml", content)
    start = time.process_time()
    refused_at("config --config run.yaml", *told)
    assert time.process_time() - start < 1


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_settings_are_read_from_plain_files_only(kind, refused_at, tmp_path):
    make = os.mkfifo if kind == "pipe" else os.mkdir
    make(tmp_path / "run.yaml")
    refused_at("config --config run.yaml", "run.yaml", "is not a file", "YAML")


@pytest.mark.parametrize(
    "text", ["2024-13-45", "2024-02-30", "0b_", "0x_", "!!bool abc", "1:30", "1" * 5000 + "/", "=", "<<"]
)
def test_what_only_looks_like_a_number_or_a_date_is_text(text, tmp_path):
    """In a file as in an override; a folder of that name can be given."""
    if "/" in text:  # longer than a name can be, but no traceback
        with pytest.raises(DpoError, match="is too long for the name of a file"):
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
    assert len(NUMERIC) > 45
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
