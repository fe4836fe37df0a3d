"""What a user can get wrong: every mistake is answered with its place, what it is and a remedy.

Each case states the exit code and the exact words; and the files in the folder are afterwards what they were.
"""

import contextlib
import json
import os
import re
import resource
import shutil
import subprocess
from pathlib import Path

import click
import mlx.core as mx
import pytest

from mlx_dpo.cli import main
from mlx_dpo.models.adapters import CONFIG, WEIGHTS

PAIR = {"prompt": "How?", "chosen": "So.", "rejected": "Thus."}
CURATED = {"prompt": "How?", "answer": "So."}
NEEDS_PAIR = 'each line needs "prompt", "chosen" and "rejected"; see data/README.md'
NEEDS_CURATED = 'each line needs "prompt" and "answer"; see data/README.md'
NEEDS_OBJECT = 'each line is one whole object, such as {"prompt": "...", "answer": "..."}'
NEEDS_TURN = 'a message is {"role": "user", "content": "..."}'
NEEDS_TEXT = "texts are JSON strings; conversations are lists of {role, content}"
SEE_CONFIG = "mlx-dpo config prints every setting with its meaning"
OTHER_FOLDER = "choose another output folder"
# No case that names this model gets as far as looking for it: files and settings are checked first.
TRAIN = "train --set data.train=rows.jsonl --set data.valid=null --model ./no-model --output out"
GEN_PAIRS = "gen-pairs --source rows.jsonl --model ./no-model --output out"


def cases(table):
    """Parametrize by a dict: promise -> values."""
    return pytest.mark.parametrize("case", list(table.values()), ids=list(table))


def chat(*turns):
    return [{"role": role, "content": content} for role, content in turns]


def write(path, content):
    """Write bytes or text as they are, a list as JSON lines."""
    if isinstance(content, list):
        content = "".join(json.dumps(row) + "\n" for row in content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def files_in(folder):
    return {p: (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Run a command in the test's folder: it must fail with exactly this message and change no file."""
    monkeypatch.chdir(tmp_path)

    def check(command, what, remedy, code=1):
        before = files_in(tmp_path)
        with pytest.raises(SystemExit) as stop:
            main(command.split())
        out, err = capsys.readouterr()
        # Sizes that differ from machine to machine.
        err = re.sub(r"has [\d.]+ GB", "has {n} GB", re.sub(r"\d+ bytes", "{n} bytes", err))
        assert err[err.find("Error: ") :] == f"Error: {what}\n  {remedy}\n"
        assert (stop.value.code, out) == (code, "")
        assert "Traceback" not in err
        assert files_in(tmp_path) == before

    return check


ANY_ROWS = {
    "a line that is not JSON": (
        [PAIR, PAIR, "cut"][:2],
        b'{"prompt": "How?"',
        "rows.jsonl:3: not JSON: Expecting ',' delimiter at column 18",
        NEEDS_OBJECT,
    ),
    "a line that is an array": ([], b"[1]", "rows.jsonl:1: is a JSON array, not an object", NEEDS_OBJECT),
    "a line that is a string": ([], b'"x"', "rows.jsonl:1: is a JSON string, not an object", NEEDS_OBJECT),
    "a line that is a number": ([], b"3", "rows.jsonl:1: is a JSON number, not an object", NEEDS_OBJECT),
    "lists too deep for Python": (
        [],
        b"[" * 100_000,
        "rows.jsonl:1: not JSON: maximum recursion depth exceeded while decoding a JSON array "
        "from a unicode string",
        NEEDS_OBJECT,
    ),
}
