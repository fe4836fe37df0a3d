"""Model and adapter folders with one thing wrong, the same ones for the same seed."""

import json
import os
import random
import shutil
from pathlib import Path

from .generate_rows import places, value

_OWN = {
    "eos_token_id": [None, -1, 10**9, "<end>", [1, "a"], [], [[0]], 1.5, True],
    "vocab_size": [None, 0, 7, -3, "8", 1e9, [8]],
    "model_type": [None, "cache", "base", "rope_utils", "llamma", 5, ["llama"], "../llama", "", "llama\0"],
    "num_hidden_layers": [None, 0, -1, 10**6, "2"],
    "model_max_length": [None, -1, [5], "many", 1e400],
    "chat_template": [
        None,
        5,
        "{{",
        "{% for m in messages %}",
        "\ud83d",
        {"default": 5},
        [],
        "{{ messages[9].content }}",
    ],
    "auto_map": [{"AutoTokenizer": ["a.B", None]}, 5],
    "model_file": ["model.py", 5],
    "lora_parameters": [
        None,
        5,
        [],
        {"rank": "a"},
        {"rank": 0, "scale": 1},
        {"rank": 4},
        {"rank": 4, "scale": "x"},
    ],
    "num_layers": [None, "a", -5, 10**9, 1.5],
    "fine_tune_type": [None, 5, "qlora", []],
    "peft_type": ["LORA", 5],
    "quantization": [5, {"bits": 3}, {"group_size": "a", "bits": 4}],
}
"""Values that single keys must not have."""


def _json(chance: random.Random, content: object) -> object:
    if isinstance(content, dict) and chance.random() < 0.5:
        name = chance.choice(list(_OWN))
        return {**content, name: chance.choice(_OWN[name])}
    some = list(places(content))
    if not some or chance.random() < 0.1:
        return value(chance)
    *above, last = chance.choice(some)
    node = content
    for key in above:
        node = node[key]
    if chance.random() < 0.3:
        del node[last]
    else:
        node[last] = value(chance)
    return content


def damage(chance: random.Random, folder: Path) -> str:
    """Change, replace or remove one file of the folder; what was done."""
    file = chance.choice(sorted(f for f in folder.iterdir() if f.is_file()))
    how = chance.choice(["json"] * 8 + ["bytes", "cut", "gone", "folder", "pipe", "loop", "empty", "other"])
    content = file.read_bytes()
    if how == "json" and file.suffix == ".json":
        made = _json(chance, json.loads(content))
        file.write_bytes(json.dumps(made).encode("utf-8", "surrogatepass"))
    elif how == "cut":
        file.write_bytes(content[: chance.randrange(len(content))])
    elif how in ("gone", "folder", "pipe", "loop"):
        file.unlink()
        {
            "gone": lambda p: None,
            "folder": os.mkdir,
            "pipe": os.mkfifo,
            "loop": lambda p: os.symlink(p.name, p),
        }[how](file)
    elif how in ("empty", "other"):
        file.write_bytes(b"" if how == "empty" else chance.randbytes(200))
    else:
        place = chance.randrange(len(content))
        file.write_bytes(content[:place] + chance.randbytes(3) + content[place + 3 :])
    return f"{how} {file.name}"


def copy(folder: Path, to: Path) -> Path:
    """A fresh copy of the folder."""
    shutil.rmtree(to, ignore_errors=True)
    return Path(shutil.copytree(folder, to))
