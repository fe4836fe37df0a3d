"""What preferences do to topics, beside the same runs without them.

    mlx-dpo topics demo --output runs/topics-demo
    python studies/topic_preferences.py config/topics_demo.yaml runs/topics-demo/corpus runs/topic-preferences

Trains for 3 seeds with the `dpo.weight` of the settings and with 0, into the last folder; runs that are there
already continue. Both runs of a seed have the same snapshot. Prints JSON: C_V, NPMI and the share of top 15
words that are kept, of topics with preferences and of the others, as means over seeds, and the difference
between both ends with half the width of its 95 % interval (t distribution); purity, NMI and diversity of both
ends.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import t

from mlx_dpo.jobs.topics_folder import PREFERENCES
from mlx_dpo.jobs.topics_train import train_topics
from mlx_dpo.topics.changes import Changes, Moment, kept_words, read_changes
from mlx_dpo.topics.config import load_topics_config
from mlx_dpo.topics.corpus import read_corpus

SEEDS = range(3)


def trained(settings: str, corpus: str, output: Path, seed: int, more: Sequence[str]) -> Changes:
    """A finished run of these settings."""
    name = f"seed-{seed}{'-without' if more else ''}"
    given = [f"corpus.folder={corpus}", f"run.output={output / name}", f"training.seed={seed}", *more]
    run = train_topics(load_topics_config(settings, given)).folder
    return read_changes(run, run / PREFERENCES, read_corpus(corpus))


def mean_of(moment: Moment, name: str, topics: Sequence[int]) -> float:
    """Mean C_V or NPMI of these topics."""
    return float(getattr(moment, name)[list(topics)].mean())


def compared(without: Changes, with_them: Changes) -> dict[str, tuple[float, ...]]:
    """Each figure of one seed: at the snapshot where it has one, and at both ends."""
    found = {}
    groups = {"with preferences": list(with_them.improved), "others": with_them.others}
    for group, topics in groups.items():
        for name in ("c_v", "npmi"):
            start = mean_of(with_them.snapshot, name, topics)
            ends = (mean_of(own.end, name, topics) for own in (without, with_them))
            found[f"{name}, {group}"] = (start, *ends)
        found[f"kept, {group}"] = tuple(_kept(own, topics) for own in (without, with_them))
    ends: dict[str, Callable[[Changes], float]] = {
        "purity": lambda own: own.clustering.purity,
        "nmi": lambda own: own.clustering.nmi,
        "diversity": lambda own: own.end.figures[-1].unique,
    }
    labelled = with_them.clustering is not None
    return found | {
        name: (figure(without), figure(with_them))
        for name, figure in ends.items()
        if labelled or name == "diversity"
    }


def _kept(own: Changes, topics: Sequence[int]) -> float:
    return float(kept_words(own.snapshot.words, own.end.words)[list(topics)].mean())


def main() -> None:
    settings, corpus, output = sys.argv[1:]
    rows = [
        compared(
            trained(settings, corpus, Path(output), seed, ["dpo.weight=0"]),
            trained(settings, corpus, Path(output), seed, []),
        )
        for seed in SEEDS
    ]
    factor = t.ppf(0.975, len(SEEDS) - 1) / np.sqrt(len(SEEDS))
    found = {}
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        difference = values[:, -1] - values[:, -2]
        found[name] = {
            "means": values.mean(axis=0).tolist(),
            "difference": difference.mean(),
            "half_width": factor * difference.std(ddof=1),
        }
    print(json.dumps({"corpus": corpus, "seeds": len(SEEDS), "figures": found}, indent=1))


if __name__ == "__main__":
    main()
