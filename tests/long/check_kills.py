#!/usr/bin/env python
"""Kill a training run with -9 again and again: does it end as one that was never killed?

    python -m tests.long.check_kills --kills 50
    python -m tests.long.check_kills --kills 10 --only "fixed, micro-batch 1" --pairs 16 \
        --model "$(python scripts/get_smollm2.py | head -1)"

For every rule of beta and micro-batches of 1 and 4: a run of a tiny model, or of the one that --model
names, with a checkpoint after every update, is killed at a random moment, started again, killed again;
when it has come to its end, its adapter and its metrics must be those of an uninterrupted run, byte by
byte but for clocks and memory; then the next run begins, until there were so many kills. Prints JSON:
kills, how many left a checkpoint half-written, runs that ended, runs that differed. Exit 1 if one did.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mlx_dpo.demo.run_demo import shipped
from mlx_dpo.demo.tiny_models import make_model

RULES = {
    "fixed": [],
    "risk": ["beta.rule=risk", "beta.risk.warmup_steps=4", "beta.risk.alpha=0.1"],
    "beta_dpo": ["beta.rule=beta_dpo", "beta.beta_dpo.keep=0.5"],
}
RUNS = {
    f"{rule}, micro-batch {count}": [
        *settings, f"training.micro_batch={count}", f"training.accumulation={8 // count}"
    ]
    for rule, settings in RULES.items()
    for count in (1, 4)
}  # fmt: skip
PAIRS, HELD_OUT, EPOCHS = 48, 4, 3
CLOCK = ("tokens_per_second", "pairs_per_second", "peak_memory_gb", "process_memory_gb")


def make_inputs(folder: Path, count: int, *, tiny: bool) -> None:
    """A tiny model, if one is wanted, and pairs of the project's own data: house style against plain."""
    rows = {
        name: [json.loads(line) for line in shipped(f"data/{name}.jsonl").read_text().splitlines()]
        for name in ("base", "curated")
    }
    if tiny:
        texts = [f"{row['prompt']} {row['answer']}" for row in rows["base"]]
        make_model(folder / "model", "llama", texts, vocab=512)
    plain = {row["id"]: row["answer"] for row in rows["base"]}
    pairs = [
        {"prompt": r["prompt"], "chosen": r["answer"], "rejected": plain[r["id"]]} for r in rows["curated"]
    ]
    for name, some in (("train", pairs[:count]), ("valid", pairs[count : count + HELD_OUT])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))


def start(folder: Path, run: Path, settings: list[str]) -> subprocess.Popen:
    """`mlx-dpo train` in a process of its own."""
    given = [
        f"data.train={folder / 'train.jsonl'}",
        f"data.valid={folder / 'valid.jsonl'}",
        f"run.output={run}",
        f"training.epochs={EPOCHS}",
        *("data.max_length=128", "adapter.rank=4", "optimizer.learning_rate=1e-3", "training.samples=0"),
        *("training.eval_steps=1", "training.patience=null", *settings),
    ]
    command = [sys.executable, "-m", "mlx_dpo", "train"]
    for setting in given:
        command += ["--set", setting]
    environment = {**os.environ, "MLX_DPO_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)


def finish(process: subprocess.Popen) -> None:
    """Wait for the end of a run."""
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(errors.decode()[-2000:])


def outcome(run: Path) -> tuple[list[dict], bytes]:
    """What must not differ."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [{name: value for name, value in row.items() if name not in CLOCK} for row in rows]
    return rows, (run / "adapters.safetensors").read_bytes()


def check(folder: Path, settings: list[str], kills: int, moments: random.Random) -> dict:
    """Kill runs with these settings until there were so many kills."""
    whole = folder / "whole"
    begun = time.monotonic()
    finish(start(folder, whole, settings))
    longest, expected = time.monotonic() - begun, outcome(whole)
    shutil.rmtree(whole)
    found = {"kills": 0, "half_written": 0, "ended": 0, "differed": 0}
    run = folder / "run"
    while found["kills"] < kills or run.exists():
        process = start(folder, run, settings)
        if found["kills"] < kills:
            time.sleep(moments.uniform(0, longest))
        if process.poll() is None and found["kills"] < kills:
            process.kill()
            process.communicate()
            found["kills"] += 1
            found["half_written"] += any((run / "checkpoints").glob(".*"))
            continue
        finish(process)
        found["ended"] += 1
        found["differed"] += outcome(run) != expected
        shutil.rmtree(run)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path, help="a model's folder, in place of a tiny one")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="pairs to train on")
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS), metavar="RUN")
    options = parser.parse_args()
    table = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_inputs(folder, options.pairs, tiny=options.model is None)
        model = f"model.path={options.model or folder / 'model'}"
        for key in options.only:
            moments = random.Random(f"{options.seed} {key}")
            table[key] = check(folder, [model, *RUNS[key]], options.kills, moments)
            print(key, json.dumps(table[key]), file=sys.stderr, flush=True)
    print(json.dumps(table, indent=1))
    sys.exit(any(found["differed"] for found in table.values()))


if __name__ == "__main__":
    main()
