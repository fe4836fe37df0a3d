"""A tiny corpus with a few clear themes, in the form that `topics train` reads."""

import numpy as np
from scipy.sparse import csr_matrix, save_npz

THEMES = (
    "bread flour oven yeast crust dough loaf bake",
    "planet orbit star moon comet rocket sun telescope",
    "goal striker keeper referee league penalty coach pitch",
)
VOCABULARY = sorted(" ".join(THEMES).split())


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
