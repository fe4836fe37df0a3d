"""Every command that reads an adapter, and a way to damage one."""

DAMAGED = "its checksum does not match"


def flip(path, place, bit):
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


ROWS = "--set data.train=rows.jsonl --set data.valid=null"
READERS = {
    "eval": "eval --run run",
    "fuse": "fuse --run run --output fused",
    "report": "report --run run",
    "train": f"train {ROWS} --output out --set model.adapter=run --model ",
    "sft": f"sft {ROWS} --output out --set model.adapter=run --model ",
    "inspect": f"inspect {ROWS} --set model.adapter=run --model ",
    "gen-pairs": "gen-pairs --source curated.jsonl --output out --set model.adapter=run --model ",
}
"""Every command that reads an adapter."""


def command_line(name, model):
    return READERS[name] + (str(model) if READERS[name].endswith(" ") else "")
