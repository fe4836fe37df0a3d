"""Ten messages whole, one of each kind, as a person sees them: texts to read when the wording changes.

All other tests of mistakes pin the place, the code and key phrases only.
"""

import re
import shutil
from pathlib import Path

import pytest

from ..support.mistakes import TRAIN, changed, flip, lines, pair, without, write

TEXTS = Path(__file__).with_name("messages.txt").read_text()
MESSAGES = {block.partition("\n")[0]: block.partition("\n")[2] for block in TEXTS.split("== ")[1:]}

NEW_RUN = f"{TRAIN} --model model --output out"

CASES = {
    "settings file": ({"run.yaml": "beta:\n  rule: fixed\n  vlaue: 0.2\n"}, "config --config run.yaml"),
    "--set": ({}, "train --set optimizer.learning_rate=-1e-5"),
    "row": ({"rows.jsonl": lines(pair(), {"prompt": "How?", "chosen": "So."})}, NEW_RUN),
    "template": (
        {
            "rows.jsonl": lines(pair()),
            "strict.jinja": "{{ raise_exception('the system turn comes first') }}",
        },
        f"{NEW_RUN} --set model.chat_template=strict.jinja",
    ),
    "model folder": ({"rows.jsonl": lines(pair())}, f"{TRAIN} --model ./no-model --output out"),
    "adapter folder": ({}, "eval --run run"),
    "checkpoint": ({}, "train --config run/config.yaml"),
    "plan": (
        {"rows.jsonl": lines(pair())},
        f"{NEW_RUN} --set training.memory_limit=0.000001",
    ),
    "resume": ({}, "train --config run/config.yaml --set beta.value=0.3"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_told_in_these_words(name, mistake, models, trained, tmp_path):
    files, command = CASES[name]
    for file, content in files.items():
        write(tmp_path / file, content)
    shutil.copytree(models("llama"), tmp_path / "model")
    run = shutil.copytree(trained("llama"), tmp_path / "run")
    changed("config.yaml", str(trained("llama")), "run")(run)
    if name == "adapter folder":
        without("adapters.safetensors")(run)
    if name == "checkpoint":
        *older, newest = sorted((run / "checkpoints").iterdir())
        for checkpoint in older:
            shutil.rmtree(checkpoint)
        flip(newest / "state.npz", 100)
    told = f"Error: {mistake(command)}\n"
    if name == "plan":  # what a step needs differs from device to device
        told = re.sub(r"\d+\.\d+", "{n}", told)
    assert told == MESSAGES[name]


def test_wrong_usage_is_told_in_these_words(outcome):
    assert outcome("train", "--zzz") == (2, "", MESSAGES["command line"])


def test_every_message_in_the_file_is_compared():
    assert MESSAGES.keys() == {*CASES, "command line"}
