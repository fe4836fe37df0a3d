"""Seconds from a file of pairs to pairs ready, the first and the second time, and the memory that it takes.

    python benchmarks/bench_data.py [--pairs 1000000] [--form csv.gz --short]

For 10,000 pairs, 100,000 and so on up to `--pairs`: a first start (rows checked and tokenised), two later
ones, and the batches of a whole epoch, each in a process of its own; no model. Memory is the process's peak
(VmHWM), and what of it stands before the data is opened (Python, MLX, tokenizer). Prints JSON.

`--form`: jsonl (our own rows), hh.jsonl (HH-RLHF transcripts) or csv.gz (a gzipped table, converted first).
"""

import argparse
import gzip
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import mlx_dpo  # noqa: F401  (loads the fast BLAS, so it comes before MLX)

# isort: split
from mlx_dpo.data.batches import build_batch, epoch_windows
from mlx_dpo.data.pair_store import open_pairs
from mlx_dpo.data.row_index import index_rows
from mlx_dpo.data.tokenize import pair_sizes
from mlx_dpo.demo.tiny_models import GRANITE, write_tokenizer
from mlx_dpo.models.load import load_tokenizer

WORDS = [
    a + b for a in ("ka", "lo", "mi", "nu", "pe", "ra", "so") for b in ("ba", "do", "fi", "ga", "ne", "po")
]
MAX_LENGTH = 512


def own(prompt, chosen, rejected):
    return json.dumps({"prompt": prompt, "chosen": chosen, "rejected": rejected})


def transcripts(prompt, chosen, rejected):
    begun = f"\n\nHuman: {prompt}\n\nAssistant: "
    return json.dumps({"chosen": begun + chosen, "rejected": begun + rejected})


FORMS = {"jsonl": own, "hh.jsonl": transcripts, "csv.gz": lambda *cells: ",".join(cells)}


def prepare(folder, count, form, short):
    """A tokenizer, and a file of pairs: prompts of 10 to 40 words, answers of 20 to 120."""
    draw = random.Random(count)
    write_tokenizer(folder, GRANITE, [" ".join(WORDS)] * 9, 512)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": 1}))

    def text(low, high):
        return " ".join(draw.choices(WORDS, k=draw.randint(low, high)))

    (asked, answered) = ((3, 10), (5, 20)) if short else ((10, 40), (20, 120))
    with (gzip.open if form.endswith("gz") else open)(folder / f"pairs.{form}", "wt") as file:
        if form == "csv.gz":
            file.write("question,response_j,response_k\n")
        for number in range(count):
            row = FORMS[form](f"{number} {text(*asked)}", text(*answered), text(*answered))
            file.write(row + "\n")


def peak_mb():
    """The process's largest resident memory so far."""
    try:
        status = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1024
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS


def start(folder, form, part):
    """From the file to rows that are checked; then to pairs ready; then every batch of an epoch."""
    tokenizer = load_tokenizer(folder)
    tokenizer.encode("what is made once")
    before, begun = peak_mb(), time.perf_counter()
    rows = index_rows(folder / f"pairs.{form}")
    found = {"checked_seconds": time.perf_counter() - begun, "checked_peak_mb": peak_mb()}
    if part == "rows":
        return found | {"before_mb": before, "pairs": len(rows)}
    pairs = open_pairs(rows, tokenizer, MAX_LENGTH)
    found |= {"seconds": time.perf_counter() - begun, "peak_mb": peak_mb(), "before_mb": before}
    found |= {"kept": len(pairs), "tokens_a_pair": float(pair_sizes(pairs).sum(axis=1).mean())}
    if part == "epoch":
        begun = time.perf_counter()
        for window in epoch_windows(pairs, 8, 1, 0, 0):
            for rows in window:
                build_batch([pairs[i] for i in rows])
        found |= {"epoch_seconds": time.perf_counter() - begun, "peak_mb": peak_mb()}
    return found


def measured(folder, form, part):
    command = [sys.executable, __file__, "--part", part, "--folder", str(folder), "--form", form]
    environment = {**os.environ, "MLX_DPO_CACHE": str(folder / "cache")}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
    return {k: round(v, 2) for k, v in json.loads(done.stdout).items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--form", choices=FORMS, default="jsonl")
    parser.add_argument("--short", action="store_true", help="rows of a fifth as many words, and no epoch")
    parser.add_argument("--only-rows", action="store_true", help="convert and check, but do not tokenise")
    parser.add_argument("--part", choices=("rows", "start", "epoch"))
    parser.add_argument("--folder", type=Path)
    a = parser.parse_args()
    if a.part:
        print(json.dumps(start(a.folder, a.form, a.part)))
        return
    sizes = sorted({min(a.pairs, 10**k) for k in range(4, 10)})
    results = []
    for count in sizes:
        with tempfile.TemporaryDirectory(prefix="bench-", dir=a.folder) as name:
            folder = Path(name)
            prepare(folder, count, a.form, a.short)
            time.sleep(3)  # so that the file is of older date than the clock's tick, as files mostly are
            result = {"pairs": count, "file_mb": round((folder / f"pairs.{a.form}").stat().st_size / 1e6, 1)}
            starts = dict.fromkeys(("first", "second", "third"), "start")
            parts = {"rows": "rows"} if a.only_rows else starts if a.short else starts | {"epoch": "epoch"}
            for label, part in parts.items():
                result[label] = measured(folder, a.form, part)
            kept = [f for f in (folder / "cache").rglob("*") if f.is_file()]
            result["cache_mb"] = round(sum(f.stat().st_size for f in kept) / 1e6, 1)
            results.append(result)
            print(f"{count:,} pairs: {result}", file=sys.stderr)
    versions = {name: version(name) for name in ("mlx", "numpy", "tokenizers", "transformers")}
    machine = {"system": platform.platform(), "python": platform.python_version(), "cpus": os.cpu_count()}
    print(json.dumps({"results": results, **machine, **versions}))


if __name__ == "__main__":
    main()
