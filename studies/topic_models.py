"""Topic models of this package beside those of TopMost, on the same bags, for the same epochs.

    python -m venv topmost && topmost/bin/pip install numpy scipy torch==2.13.0
    topmost/bin/pip install --no-deps topmost==1.0.2
    python studies/topic_models.py SETTINGS CORPUS OUTPUT topmost/bin/python [--side mlx_dpo] [KEY=VALUE ...]

CORPUS has bags, texts, and labels of held-out documents. Both sides have the sizes, weights, learning rates
and epochs of SETTINGS and of KEY=VALUE, and word vectors that start at random. Models that are in OUTPUT
already are not trained again; --side trains those of one side only, so that two processes can share the work.
Prints JSON: for each side, the mean over 3 seeds of every figure with half the width of its 95 % interval (t
distribution), by the same code for both; and the seconds that each model took.
"""

import argparse
import json
import subprocess
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
from scipy.stats import t

from mlx_dpo.jobs.topics_train import train_topics
from mlx_dpo.storage.files import write_text
from mlx_dpo.topics.config import TopicsConfig, load_topics_config
from mlx_dpo.topics.corpus import Corpus, read_corpus
from mlx_dpo.topics.evaluation import label_figures, word_figures
from mlx_dpo.topics.model_files import BETA, TEST_THETA
from mlx_dpo.topics.top_words import top_words

SEEDS, WORDS = range(3), 15
SECONDS = "seconds.json"


def by_mlx_dpo(config: TopicsConfig, python: str) -> None:
    train_topics(config)


def by_topmost(config: TopicsConfig, python: str) -> None:
    """Train in TopMost's own environment."""
    arguments = {
        "corpus": config.corpus.folder,
        "output": config.run.output,
        "seed": config.training.seed,
        "epochs": config.training.epochs,
        "batch_size": config.training.batch_size,
        "learning_rate": config.optimizer.learning_rate,
        "halve_epochs": config.optimizer.halve_epochs or config.training.epochs,
        "num_topics": config.model.topics,
        "en_units": config.model.encoder_size,
        "embed_size": config.model.embedding_size,
        "dropout": config.model.dropout,
        "beta_temp": config.model.temperature,
        "weight_loss_ECR": config.model.ecr_weight,
        "sinkhorn_alpha": config.model.sinkhorn_alpha,
        "sinkhorn_max_iter": config.model.sinkhorn_iterations,
    }
    script = Path(__file__).with_name("topmost_model.py")
    subprocess.run([python, str(script), json.dumps(arguments)], check=True)


SIDES = {"mlx_dpo": by_mlx_dpo, "topmost": by_topmost}


def train(side: str, config: TopicsConfig, python: str) -> None:
    """Train a model, unless it is there."""
    folder = Path(config.run.output)
    if not (folder / SECONDS).exists():
        begun = time.perf_counter()
        SIDES[side](config, python)
        write_text(folder / SECONDS, json.dumps(time.perf_counter() - begun))


def figures(folder: Path, corpus: Corpus) -> dict[str, float]:
    """The figures of a trained model, and the seconds that it took."""
    of_words = asdict(word_figures(top_words(np.load(folder / BETA), WORDS), corpus.texts, corpus.vocabulary))
    of_labels = asdict(label_figures(folder / TEST_THETA, corpus))
    names = ("c_v", "npmi", "unique", "distinct", "purity", "nmi")
    return {name: (of_words | of_labels)[name] for name in names} | {
        "seconds": json.loads((folder / SECONDS).read_text())
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("settings", "corpus", "output", "python"):
        parser.add_argument(name)
    parser.add_argument("more", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--side", choices=SIDES)
    given = parser.parse_intermixed_args()
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for side in [given.side] if given.side else SIDES:
        for seed in SEEDS:
            folder = Path(given.output) / f"{side}-{seed}"
            own = [
                "word_vectors.source=random",
                "dpo.start_epoch=null",
                f"corpus.folder={given.corpus}",
                f"run.output={folder}",
                f"training.seed={seed}",
            ]
            train(side, load_topics_config(given.settings, [*given.more, *own]), given.python)
            found[side].append(figures(folder, read_corpus(given.corpus)))
    factor = t.ppf(0.975, len(SEEDS) - 1) / np.sqrt(len(SEEDS))
    told = {
        side: {
            name: {
                "mean": np.mean([row[name] for row in rows]),
                "half_width": factor * np.std([row[name] for row in rows], ddof=1),
            }
            for name in rows[0]
        }
        for side, rows in found.items()
        if rows
    }
    print(
        json.dumps({"corpus": given.corpus, "seeds": len(SEEDS), "words": WORDS, "figures": told}, indent=1)
    )


if __name__ == "__main__":
    main()
