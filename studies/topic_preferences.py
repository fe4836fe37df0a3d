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
from dataclasses import replace
from pathlib import Path

import numpy as np

from mlx_dpo.jobs.topics_folder import PREFERENCES
from mlx_dpo.jobs.topics_train import train_topics
from mlx_dpo.metrics import student_half_width
from mlx_dpo.optimizers import OptimizerConfig, optimizer_at
from mlx_dpo.topics.batches import batch_count
from mlx_dpo.topics.changes import Changes, read_changes
from mlx_dpo.topics.checkpoint import restore
from mlx_dpo.topics.config import TopicsConfig, load_topics_config
from mlx_dpo.topics.corpus import Corpus, read_corpus
from mlx_dpo.topics.ecrtm import ECRTM
from mlx_dpo.topics.evaluation import TOP
from mlx_dpo.topics.guidance import build_guidance
from mlx_dpo.topics.model_files import write_results
from mlx_dpo.topics.over_seeds import DIVERSITIES, end_figures, snapshot_figures
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


def compared(without: Changes, with_them: Changes) -> dict[str, tuple[float, ...]]:
    """Each figure of one seed: at the snapshot where it has one, and at both ends."""
    start, *ends = snapshot_figures(with_them), *(end_figures(own) for own in (without, with_them))
    found = {
        name: tuple(own[name] for own in (start, *ends) if name in own)
        for name in ends[0]
        if name not in DIVERSITIES
    }
    return found | {"diversity": tuple(own["unique"] for own in ends)}


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
    found = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = np.array([row[name] for row in rows if name in row])
        difference = values[:, -1] - values[:, -2]
        found[name] = {
            "means": values.mean(axis=0).tolist(),
            "difference": difference.mean(),
            "half_width": student_half_width(difference) if len(difference) > 1 else None,
        }
    print(json.dumps({"corpus": given.corpus, "seeds": given.seeds, "figures": found}, indent=1))


if __name__ == "__main__":
    main()
