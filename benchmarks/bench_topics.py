#!/usr/bin/env python
"""Time of a training epoch of a topic model: this package beside TopMost's ECRTM on torch.

    python benchmarks/bench_topics.py --corpus FOLDER
    python benchmarks/bench_topics.py --corpus FOLDER --topmost TOPMOST/bin/python --sizes 50x5000 100x2500

FOLDER is a corpus as mlx-dpo topics prepare writes it. TOPMOST is an environment with torch and topmost (see
tests/golden/golden_topmost.py) and scipy. A size is topics x words; the words in the most documents are kept.

Each measurement is a process of its own: one epoch to warm up, then the epochs that count. Both sides take
turns in every round, so that a slower minute of the machine hits both. Both have batches of 200, Adam, random
word vectors that are trained, and the same sizes. Prints one JSON object: seconds an epoch by the clock and
of the processor (all threads), median, least and most of the rounds; versions; hardware. On a busy machine,
compare the processor's.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

BATCH, ECR_WEIGHT = 200, 5.0
"""Documents an update; the paper's weight for AGNews."""


def now():
    """Seconds of the clock and of the processor."""
    import numpy as np

    return np.array([time.perf_counter(), time.process_time()])


def bags_of(corpus, words):
    """The corpus with the words in the most documents: CSR int32, documents without words left out."""
    import numpy as np
    import scipy.sparse

    bags = scipy.sparse.csr_matrix(scipy.sparse.load_npz(Path(corpus) / "train_bow.npz"))
    kept = np.sort(np.argsort(-(bags > 0).sum(axis=0).A1, kind="stable")[:words])
    bags = bags[:, kept]
    return bags[np.diff(bags.indptr) > 0].astype(np.int32)


def ours(bags, topics, epochs):
    """Seconds of each epoch, by the clock and of the processor."""
    import mlx_dpo  # noqa: F401  (loads the fast BLAS, so it comes before MLX)

    # isort: split
    from mlx_dpo.optimizers import OptimizerConfig, optimizer_at
    from mlx_dpo.topics.config import load_topics_config
    from mlx_dpo.topics.ecrtm import ECRTM
    from mlx_dpo.topics.state import TopicState
    from mlx_dpo.topics.train import train

    settings = [f"model.topics={topics}", f"model.ecr_weight={ECR_WEIGHT}", f"training.batch_size={BATCH}"]
    words = ["word_vectors.source=random", "training.train_words=true"]
    config = load_topics_config(None, [*settings, *words, f"training.epochs={epochs}"])
    model = ECRTM(bags.shape[1], config.model)
    ends = [now()]
    train(
        model,
        optimizer_at(OptimizerConfig(name="adam"), config.optimizer.learning_rate),
        bags,
        config,
        TopicState(),
        save=lambda state: None,
        log=lambda row: ends.append(now()),
    )
    return [end - start for start, end in pairwise(ends)]


def topmost(bags, topics, epochs):
    """Seconds of each epoch of its own loop: the same statements as BasicTrainer.train."""
    import torch
    from torch.utils.data import DataLoader

    sys.path.insert(0, str(Path(find_spec("topmost").origin).parent / "models" / "basic"))
    from ECRTM.ECRTM import ECRTM

    model = ECRTM(bags.shape[1], num_topics=topics, weight_loss_ECR=ECR_WEIGHT)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002)
    batches = DataLoader(torch.from_numpy(bags.toarray()).float(), batch_size=BATCH, shuffle=True)
    ends = [now()]
    model.train()
    for _ in range(epochs):
        for batch in batches:
            found = model(batch)
            optimizer.zero_grad()
            found["loss"].backward()
            optimizer.step()
        ends.append(now())
    return [end - start for start, end in pairwise(ends)]


SIDES = {"mlx_dpo": ours, "topmost": topmost}


def measured(side, python, arguments, size):
    """Median seconds of an epoch by the clock and of the processor, in a process of its own."""
    command = [python, __file__, "--corpus", arguments.corpus, "--epochs", str(arguments.epochs)]
    done = subprocess.run(
        [*command, "--side", side, "--sizes", size], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


def spread(rounds):
    kinds = zip(("clock", "processor"), zip(*rounds, strict=True), strict=True)
    return {kind: {"median": statistics.median(of), "least": min(of), "most": max(of)} for kind, of in kinds}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--topmost", metavar="PYTHON", help="the interpreter of an environment with topmost")
    parser.add_argument("--sizes", nargs="+", default=["50x5000"], metavar="TOPICSxWORDS")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        topics, words = map(int, arguments.sizes[0].split("x"))
        seconds = SIDES[arguments.side](bags_of(arguments.corpus, words), topics, 1 + arguments.epochs)
        print(json.dumps([statistics.median(of) for of in zip(*seconds[1:], strict=True)]))
        return
    pythons = {"mlx_dpo": sys.executable} | ({"topmost": arguments.topmost} if arguments.topmost else {})
    found = {size: {side: [] for side in pythons} for size in arguments.sizes}
    for number in range(arguments.rounds):
        for size in arguments.sizes:
            for side in list(pythons)[:: 1 if number % 2 else -1]:
                found[size][side].append(measured(side, pythons[side], arguments, size))
                print(f"round {number + 1}, {size}, {side}: {found[size][side][-1]}", file=sys.stderr)
    told = {
        "seconds_per_epoch": {
            size: {side: spread(seconds) for side, seconds in of.items()} for size, of in found.items()
        },
        "batch": BATCH,
        "rounds": arguments.rounds,
        "versions": {name: version(name) for name in ("mlx", "mlx-dpo", "numpy", "scipy")},
        "hardware": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
    }
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
