"""Eleven messages whole, one of each kind, as a person sees them: texts to read when the wording changes.

All other tests of mistakes pin the place, the code and key phrases only.
"""

import re
import shutil
from pathlib import Path

import pytest

from ..support.mistakes import TRAIN, changed, flip, lines, pair, without, write
from ..support.planted import planted

TEXTS = Path(__file__).with_name("messages.txt").read_text()
MESSAGES = {block.partition("\n")[0]: block.partition("\n")[2] for block in TEXTS.split("== ")[1:]}

NEW_RUN = f"{TRAIN} --model model --output out"
ROWS = {"rows.jsonl": lines(pair())}
STRICT = "{{ raise_exception('the system turn comes first') }}"


def newest_is_damaged(run):
    """No older checkpoint is left, either."""
    *older, newest = sorted((run / "checkpoints").iterdir())
    for checkpoint in older:
        shutil.rmtree(checkpoint)
    flip(newest / "state.npz", 100)


FILES = {
    "settings file": ({"run.yaml": "beta:\n  rule: fixed\n  vlaue: 0.2\n"}, "config --config run.yaml"),
    "--set": ({}, "train --set optimizer.learning_rate=-1e-5"),
    "row": ({"rows.jsonl": lines(pair(), {"prompt": "How?", "chosen": "So."})}, NEW_RUN),
    "template": (ROWS | {"strict.jinja": STRICT}, f"{NEW_RUN} --set model.chat_template=strict.jinja"),
    "model folder": (ROWS, f"{TRAIN} --model ./no-model --output out"),
}
RUNS = {
    "adapter folder": (without("adapters.safetensors"), "eval --run run"),
    "checkpoint": (newest_is_damaged, "train --config run/config.yaml"),
    "resume": (lambda run: None, "train --config run/config.yaml --set beta.value=0.3"),
}


@pytest.fixture
def told(mistake):
    """What a command shows on stderr beside its progress."""
    return lambda command: f"Error: {mistake(command)}\n"


@pytest.mark.parametrize("name", FILES)
def test_a_mistake_is_told_in_these_words(name, told, models, tmp_path):
    files, command = FILES[name]
    for file, content in files.items():
        write(tmp_path / file, content)
    shutil.copytree(models("llama"), tmp_path / "model")
    assert told(command) == MESSAGES[name]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_cannot_be_used_is_told_in_these_words(name, told, trained, tmp_path):
    damage, command = RUNS[name]
    run = shutil.copytree(trained("llama"), tmp_path / "run")
    changed("config.yaml", str(trained("llama")), "run")(run)
    damage(run)
    assert told(command) == MESSAGES[name]


def test_a_run_that_does_not_fit_is_told_in_these_words(told, models, tmp_path):
    """But for its numbers: what a step needs differs from device to device."""
    write(tmp_path / "rows.jsonl", ROWS["rows.jsonl"])
    shutil.copytree(models("llama"), tmp_path / "model")
    message = told(f"{NEW_RUN} --set training.memory_limit=0.000001")
    assert re.sub(r"\d+\.\d+", "{n}", message) == MESSAGES["plan"]


def test_a_fused_model_that_is_not_like_its_adapter_is_told_in_these_words(told, models, tmp_path):
    """But for its figures: a change of 3 % is lost at 4 bits by a margin."""
    planted(models("llama-4bit"), tmp_path / "run", 0.03)
    write(tmp_path / "rows.jsonl", ROWS["rows.jsonl"])
    settings = (
        f"model:\n  path: {models('llama-4bit')}\ndata:\n  train: {tmp_path}/rows.jsonl\n  valid: null\n"
    )
    write(tmp_path / "run" / "config.yaml", settings)
    message = told("fuse --run run --output fused --precision 4")
    assert re.sub(r"\d+\.\d+(e-\d+)?|\b100(?= %)", "{n}", message) == MESSAGES["fuse"]


def test_wrong_usage_is_told_in_these_words(outcome):
    assert outcome("train", "--zzz") == (2, "", MESSAGES["command line"])


def test_every_message_in_the_file_is_compared():
    assert MESSAGES.keys() == {*FILES, *RUNS, "plan", "fuse", "command line"}
