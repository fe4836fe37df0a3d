#!/usr/bin/env python
"""Do unequal pairs cost more a token in micro-batches of four than one by one?

    python benchmarks/bench_micro_batch.py [--peers FOLDER] [--rounds 5]

Four steps of one pair and one step of the same four take turns in one process, over 32 pairs a round. Prints
JSON: median, least and most seconds per 1,000 tokens, and of the rounds' ratios.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import bench_step as bench
import mlx.core as mx
import numpy as np

PAIRS, SIZES = 32, (1, 4)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peers", type=Path, help="folder with models and pairs; else random ones")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    model = bench.make_model("llama")
    if options.peers:
        pairs = bench.read_pairs(*bench.files("llama", "D", options.peers), PAIRS)
    else:
        pairs = bench.make_pairs("D", PAIRS)
    tokens = sum(pair.tokens for pair in pairs)
    mx.eval(model.parameters())
    step = bench.dpo_step(model, pairs, "shared", np.zeros((PAIRS, 2), np.float32))
    found = {size: [] for size in SIZES}
    for number in range(options.rounds + 1):
        spent = dict.fromkeys(SIZES, 0.0)
        for first in range(0, PAIRS, max(SIZES)):
            for size in SIZES[:: -1 if first % 8 else 1]:
                start = time.perf_counter()
                for row in range(first, first + max(SIZES), size):
                    step(list(range(row, row + size)))
                spent[size] += time.perf_counter() - start
        if number:  # the first round warms up
            for size in SIZES:
                found[size].append(1000 * spent[size] / tokens)
    ratios = [four / one for one, four in zip(found[1], found[4], strict=True)]
    rows = {"1": found[1], "4": found[4], "4 / 1": ratios}
    print(json.dumps({k: [round(f(v), 3) for f in (statistics.median, min, max)] for k, v in rows.items()}))


if __name__ == "__main__":
    main()
