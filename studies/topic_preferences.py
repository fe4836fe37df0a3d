"""What preferences do to topics, beside the same runs without them.

    mlx-dpo topics demo --output runs/topics-demo
    python studies/topic_preferences.py config/topics_demo.yaml runs/topics-demo/corpus runs/topic-preferences

After these three (settings, corpus, output) may stand KEY=VALUE and --seeds. For each seed there is a run
with the settings, and the same training from its snapshot on with `dpo.weight` 0, which gives the same bytes
as a run of its own. Runs that are in OUTPUT already continue, or are done; several processes can train
different seeds. Prints JSON: C_V, NPMI and the share of top 15 words that are kept, of topics with
preferences and of the others, as means over seeds, and the difference between both ends with half the width
of its 95 % interval (t distribution); purity, NMI and diversity of both ends.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.stats import t

from mlx_dpo.jobs.topics_folder import PREFERENCES
from mlx_dpo.jobs.topics_train import train_topics
from mlx_dpo.optimizers import OptimizerConfig, optimizer_at
from mlx_dpo.topics.batches import batch_count
from mlx_dpo.topics.changes import Changes, Moment, kept_words, read_changes
from mlx_dpo.topics.checkpoint import restore
from mlx_dpo.topics.config import TopicsConfig, load_topics_config
from mlx_dpo.topics.corpus import Corpus, read_corpus
from mlx_dpo.topics.ecrtm import ECRTM
from mlx_dpo.topics.evaluation import TOP
from mlx_dpo.topics.guidance import build_guidance
from mlx_dpo.topics.model_files import write_results
from mlx_dpo.topics.train import train
from mlx_dpo.training.checkpoint_folder import checkpoint_of


def trained(config: TopicsConfig, corpus: Corpus) -> tuple[Changes, Changes]:
    """A finished run without preferences and with them, from the same snapshot."""
    run = Path(config.run.output)
    without = run.with_name(f"{run.name}-without")
    if not (run / TOP).exists():
        train_topics(config)
    if not (without / TOP).exists():
        train_without(config, corpus, run, without)
    return tuple(read_changes(folder, run / PREFERENCES, corpus) for folder in (without, run))


def train_without(config: TopicsConfig, corpus: Corpus, run: Path, output: Path) -> None:
    """Train on from the snapshot of a run, with preferences that do not count."""
    model = ECRTM(len(corpus.vocabulary), config.model)
    optimizer = optimizer_at(OptimizerConfig(name="adam"), config.optimizer.learning_rate)
    step = config.dpo.start_epoch * batch_count(corpus.bags.shape[0], config.training.batch_size)
    if not config.training.train_words:
        model.freeze_words()
    state = restore(checkpoint_of(run, step), model, optimizer)
    guidance = build_guidance(run / PREFERENCES, corpus, config, None, "")
    model.freeze_words()
    unweighted = replace(config, dpo=replace(config.dpo, weight=0.0))
    state = state.guided_by(guidance.digest)
    ignore = {"save": lambda state: None, "log": lambda row: None}
    train(model, optimizer, corpus.bags, unweighted, state, guidance, **ignore)
    output.mkdir(parents=True, exist_ok=True)
    write_results(model, corpus, output)


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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("settings", "corpus", "output"):
        parser.add_argument(name)
    parser.add_argument("more", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    given = parser.parse_intermixed_args()
    rows = []
    for seed in given.seeds:
        own = [
            f"corpus.folder={given.corpus}",
            f"run.output={given.output}/seed-{seed}",
            f"training.seed={seed}",
        ]
        config = load_topics_config(given.settings, [*given.more, *own])
        rows.append(compared(*trained(config, read_corpus(given.corpus))))
    factor = t.ppf(0.975, len(rows) - 1) / np.sqrt(len(rows))
    found = {}
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        difference = values[:, -1] - values[:, -2]
        found[name] = {
            "means": values.mean(axis=0).tolist(),
            "difference": difference.mean(),
            "half_width": factor * difference.std(ddof=1),
        }
    print(json.dumps({"corpus": given.corpus, "seeds": given.seeds, "figures": found}, indent=1))


if __name__ == "__main__":
    main()
