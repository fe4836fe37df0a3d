"""What the tests of a user's mistakes share: rows, commands, remedies, and ways to damage a file."""

import contextlib
import json
import os
import resource
from dataclasses import fields

import mlx.core as mx
import pytest

from mlx_dpo.errors import DpoError
from mlx_dpo.losses import BetaConfig

SECTIONS = (
    "known here: model, pairs, generate, endpoint, judge, data, adapter, loss, beta, optimizer, training, run"
)
IN_BETA = ", ".join(f.name for f in fields(BetaConfig))
ALIASES = "without aliases (*name)"
DOWNLOAD = "download the model again"
COPY_RUN = "copy the whole run folder again"
A_TURN = '{"role": "user", "content": "..."}'
TYPE = "wrong-type"

# No case with this model gets as far as looking for it: settings, files and folders are checked before.
NO_MODEL = "--model ./no-model --output out"
TRAIN = "train --set data.train=rows.jsonl --set data.valid=null"
GEN_PAIRS = "gen-pairs --source rows.jsonl"


def cases(table):
    """Parametrize by promise -> values."""
    return pytest.mark.parametrize("case", table.values(), ids=table.keys())


def assert_told(error, place, phrase, remedy="", code=""):
    """The DpoError names this place and code, its one-line message holds the phrase, and its hint `remedy`.

    The rest of the wording is free; ten messages are compared whole in tests/golden/test_messages.py.
    """
    assert (error.where, error.code) == (place, code), str(error)
    assert phrase in error.what and "\n" not in error.what, error.what
    assert error.hint and remedy in error.hint, error.hint


def chat(*turns):
    return [{"role": role, "content": content} for role, content in turns]


def pair(**changes):
    return {"prompt": "How?", "chosen": "So.", "rejected": "Thus."} | changes


def curated(**changes):
    return {"prompt": "How?", "answer": "So."} | changes


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@contextlib.contextmanager
def files_end_at(size):
    """A disk on which no file grows past `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def flip(path, place):
    """Change one bit of the byte there."""
    with open(path, "r+b") as file:
        file.seek(place)
        (value,) = file.read(1)
        file.seek(place)
        file.write(bytes([value ^ 1]))


def without(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def holding(name, content):
    return lambda folder: write(folder / name, content)


def cut(name, size):
    return lambda folder: os.truncate(folder / name, size)


def changed(name, old, new):
    def change(folder):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return change


def not_a_number(folder):
    weights = mx.load(str(folder / "model.safetensors"))
    name = "model.norm.weight"
    mx.save_safetensors(str(folder / "model.safetensors"), weights | {name: weights[name] * mx.nan})


def refused(call, argument, place, phrase, remedy=""):
    """The call must refuse its argument at this place, with a message that holds the phrase."""
    with pytest.raises(DpoError) as caught:
        call(argument)
    assert_told(caught.value, place, phrase, remedy)


def edit(file, **changes):
    """Set values of a JSON object; ... removes one."""
    content = json.loads(file.read_text()) if file.exists() else {}
    content = {name: value for name, value in (content | changes).items() if value is not ...}
    file.write_text(json.dumps(content))
