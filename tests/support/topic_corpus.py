"""A tiny corpus with a few clear themes, in the form that `topics train` reads."""

import json

import mlx.core as mx
import numpy as np
from scipy.sparse import csr_matrix, save_npz

THEMES = (
    "bread flour oven yeast crust dough loaf bake",
    "planet orbit star moon comet rocket sun telescope",
    "goal striker keeper referee league penalty coach pitch",
)
VOCABULARY = sorted(" ".join(THEMES).split())

SHORT = (
    "model.topics=3",
    "model.encoder_size=8",
    "model.embedding_size=6",
    "model.ecr_weight=20",
    "model.sinkhorn_iterations=5",
    "training.epochs=6",
    "training.batch_size=20",
    "optimizer.learning_rate=0.01",
    "word_vectors.source=random",
    "training.train_words=true",
)
"""Settings of a run of a second."""
CLOCK = ("documents_per_second", "peak_memory_gb")
"""What in a run's metrics depends on the machine."""


def train_words(*settings, output="run"):
    """A topics train command with the short settings and these, for a folder that has `corpus`."""
    given = [word for one in (*SHORT, *settings) for word in ("--set", one)]
    return ["topics", "train", "--corpus", "corpus", "--output", output, *given]


def rows_of(folder):
    """A run's metrics, without what the clock decides."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in CLOCK} for row in rows]


def results_of(folder):
    """Everything that a run says in the end: arrays as bytes, texts, metrics."""
    arrays = {path.name: np.load(path) for path in folder.glob("*.npy")}
    arrays |= {name: np.array(value) for name, value in mx.load(str(folder / "model.safetensors")).items()}
    texts = {path.name: path.read_text() for path in folder.glob("top_words_*")}
    return {name: value.tobytes() for name, value in arrays.items()} | texts | {"rows": rows_of(folder)}


def documents(count, seed, noise=0.1):
    """Texts of six to ten words of one theme, some of other themes, and the number of each text's theme."""
    draw = np.random.default_rng(seed)
    texts, labels = [], []
    for _ in range(count):
        label = int(draw.integers(len(THEMES)))
        own = THEMES[label].split()
        words = [
            str(draw.choice(VOCABULARY if draw.random() < noise else own))
            for _ in range(int(draw.integers(6, 11)))
        ]
        texts.append(" ".join(words))
        labels.append(label)
    return texts, labels


def bags_of(texts):
    """Counts of the vocabulary's words, CSR int32."""
    number = {word: place for place, word in enumerate(VOCABULARY)}
    counts = np.zeros((len(texts), len(VOCABULARY)), np.int32)
    for row, text in enumerate(texts):
        for word in text.split():
            counts[row, number[word]] += 1
    return csr_matrix(counts)


def write_corpus(folder, train=60, test=20, seed=0):
    """Write the corpus into a folder, which is made; the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in VOCABULARY))
    for part, count, own in (("train", train, seed), ("test", test, seed + 1)):
        texts, labels = documents(count, own)
        save_npz(folder / f"{part}_bow.npz", bags_of(texts))
        (folder / f"{part}_texts.txt").write_text("".join(f"{text}\n" for text in texts))
        (folder / f"{part}_labels.txt").write_text("".join(f"{label}\n" for label in labels))
    return folder
