"""Peak memory and time of fuse and of every export, on models of about 1 GB.

    python benchmarks/bench_export.py                 JSON
    python benchmarks/bench_export.py --markdown      the tables of docs/exports.md
    python benchmarks/bench_export.py --only llama-float32 --folder /tmp/bench   keeps the models

Random Llamas in float32 and bfloat16, and a random Granite hybrid in float32, whose gate and up projection
are joined on the Hub; LoRA of rank 16 on all linear layers. They are written tensor by tensor. Each command
runs in a process of its own. Two peaks are measured: of MLX's arrays, and of the whole process (resident
memory by the system's count, Python and its libraries included). `load` only loads the model. Needs 8 GB of
disk and the package gguf; nothing is proved with other programs, because these need a copy of their own.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

import mlx_dpo  # noqa: F401  (loads the fast BLAS, so it comes before MLX)

# isort: split
import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from mlx_dpo.cli import main as command_line
from mlx_dpo.demo.tiny_models import ARCHITECTURES, write_tokenizer
from mlx_dpo.export.safetensors_file import write_safetensors
from mlx_dpo.models.adapters import (
    AdapterConfig,
    attach_unevaluated,
    save_adapter_config,
    save_adapter_weights,
    trainable,
)
from mlx_dpo.models.base_of_adapter import KEY, base_sums
from mlx_dpo.models.load import load_model, load_tokenizer
from mlx_dpo.storage.jsonl import write_jsonl
from mlx_dpo.upstream import model_classes

HIDDEN, VOCABULARY = 1536, 32_768
MODELS = {
    "llama-float32": ("llama", "float32", 7),
    "llama-bfloat16": ("llama", "bfloat16", 16),
    "granite-float32": ("granite", "float32", 7),
}
"""Name: architecture, dtype, number of blocks."""
COMMANDS = {
    "load": None,
    "fuse": "fuse",
    "fuse --precision 8": "fuse --precision 8 --max-kl-ratio 100",
    "export hf": "export hf --no-prove",
    "export gguf --type f16": "export gguf --no-prove --type f16",
    "export gguf --type q8_0": "export gguf --no-prove --type q8_0",
    "export gguf --lora": "export gguf --lora",
    "export peft": "export peft --no-prove --base org/base",
}
ROWS = [
    {"prompt": f"How do I clean pan number {n}?", "chosen": f"Gladly, rub pan {n}.", "rejected": "Wash it."}
    for n in range(8)
]


class Drawn(Mapping[str, mx.array]):
    """Random weights of a model; each is drawn when it is asked for, twice the same."""

    def __init__(self, parameters: list[tuple[str, mx.array]], dtype: mx.Dtype):
        self._shapes = {name: value.shape for name, value in parameters}
        self._keys = dict(zip(self._shapes, mx.random.split(mx.random.key(0), len(parameters)), strict=True))
        self._dtype = dtype

    def __getitem__(self, name: str) -> mx.array:
        shape = self._shapes[name]
        if len(shape) < 2:
            return mx.ones(shape, self._dtype)
        drawn = mx.random.normal(shape, key=self._keys[name]) * float(np.prod(shape[1:])) ** -0.5
        return drawn.astype(self._dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def make(folder: Path, name: str) -> None:
    """Write a base, a run on it, and the run's rows."""
    architecture, dtype, layers = MODELS[name]
    build_config, chat = ARCHITECTURES[architecture]
    base, run = folder / "base", folder / "run"
    base.mkdir(parents=True)
    run.mkdir()
    write_tokenizer(base, chat, [" ".join(row.values()) for row in ROWS], 512)
    config = build_config(HIDDEN, layers, VOCABULARY)
    config |= {"eos_token_id": chat.special.index(chat.end), "pad_token_id": 0, "torch_dtype": dtype}
    (base / "config.json").write_text(json.dumps(config))
    kind, arguments = model_classes(config)
    model = kind(arguments.from_dict(config))
    weights = Drawn(tree_flatten(model.parameters()), getattr(mx, dtype))
    write_safetensors(base / "model.safetensors", [*weights], weights, {"format": "mlx"})
    adapter = AdapterConfig(rank=16)
    attach_unevaluated(model, adapter)
    moved = [(n, 0.02 * mx.random.normal(v.shape)) for n, v in trainable(model).items() if "lora_b" in n]
    model.load_weights(moved, strict=False)
    save_adapter_config(model, adapter, str(base), run, {KEY: base_sums(base, load_tokenizer(base))})
    save_adapter_weights(model, run)
    write_jsonl(folder / "rows.jsonl", ROWS)
    settings = {"model": {"path": str(base)}, "data": {"train": str(folder / "rows.jsonl"), "valid": None}}
    (run / "config.yaml").write_text(json.dumps(settings))


def part(folder: Path, words: list[str]) -> None:
    """Run one command in this process; the last line printed is MLX's peak in bytes."""
    if words == ["load"]:
        load_model(folder / "base")
    else:
        try:
            command_line(words)
        except SystemExit as stop:
            if stop.code:
                raise
    print(mx.get_peak_memory())


def measured(folder: Path, words: list[str]) -> dict[str, float]:
    """Peaks in bytes of a command, and seconds: by the clock, and of computing."""
    command = [sys.executable, __file__, "--folder", str(folder), "--part", *words]
    environment = {**os.environ, "MLX_DPO_CACHE": str(folder / "cache")}
    begun = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.DEVNULL, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        lines = said.read().splitlines()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "mlx_peak": float(lines[-1]),
        "process_peak": usage.ru_maxrss * unit,
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
    }


def bench(folder: Path, name: str) -> list[dict]:
    """All commands on one model."""
    made = folder / name
    if not made.exists():
        environment = {**os.environ, "MLX_DPO_CACHE": str(made / "cache")}
        command = [sys.executable, __file__, "--folder", str(folder), "--make", name]
        subprocess.run(command, check=True, env=environment, stderr=subprocess.DEVNULL)
    size = (made / "base" / "model.safetensors").stat().st_size
    found = []
    for label, words in COMMANDS.items():
        output = made / "out"
        shutil.rmtree(output, ignore_errors=True)
        more = ["--run", str(made / "run"), "--output", str(output)]
        own = measured(made, [*words.split(), *more] if words else ["load"])
        wrote = sum(file.stat().st_size for file in output.glob("*")) if words else 0
        shutil.rmtree(output, ignore_errors=True)
        found.append({"model": name, "model_bytes": size, "command": label, "wrote": wrote, **own})
        print(found[-1], file=sys.stderr)
    return found


def markdown(rows: list[dict]) -> str:
    """A table by model."""
    lines = []
    for name in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == name]
        size = own[0]["model_bytes"]
        lines += [f"**{name}, {size / 1e9:.2f} GB**", ""]
        lines += ["| | wrote | peak of MLX | of the model | peak of the process | CPU seconds | per GB |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for row in own:
            wrote = f"{row['wrote'] / 1e9:.2f} GB" if row["wrote"] else ""
            peaks = [row["mlx_peak"] / 1e9, row["process_peak"] / 1e9]
            lines += [
                f"| `{row['command']}` | {wrote} | {peaks[0]:.2f} GB | {row['mlx_peak'] / size:.2f} | "
                f"{peaks[1]:.2f} GB | {row['cpu_seconds']:.0f} | {row['cpu_seconds'] / size * 1e9:.0f} |"
            ]
        lines += [""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=MODELS, default=[*MODELS])
    parser.add_argument("--folder", type=Path, help="keep the models there; by default they are removed")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--make", choices=MODELS, help=argparse.SUPPRESS)
    parser.add_argument("--part", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        part(options.folder, options.part)
        return
    if options.make:
        make(options.folder / options.make, options.make)
        return
    folder = options.folder or Path(tempfile.mkdtemp(prefix="bench-"))
    rows = [row for name in options.only for row in bench(folder, name)]
    if not options.folder:
        shutil.rmtree(folder)
    versions = {name: version(name) for name in ("mlx", "mlx-lm", "gguf")}
    hardware = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    if options.markdown:
        print(markdown(rows), hardware, versions, sep="\n")
    else:
        print(json.dumps({"rows": rows, "versions": versions, "hardware": hardware}, indent=1))


if __name__ == "__main__":
    main()
