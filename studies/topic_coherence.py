"""Which measures of coherence tell words of one theme from words drawn at random, on a corpus of yours.

    python studies/topic_coherence.py FOLDER

FOLDER is a corpus of `mlx-dpo topics prepare` with texts. Prints JSON: for each kind of list, C_V and NPMI of
50 lists of 15 words, as the mean over 5 seeds with half the width of its 95 % interval (t distribution).
"""

import json
import sys

import numpy as np
from scipy.stats import t

from mlx_dpo.topics.coherence import c_v, npmi
from mlx_dpo.topics.corpus import Corpus, read_corpus
from mlx_dpo.topics.meanings import meanings

LISTS, WORDS, SEEDS = 50, 15, range(5)


def lists(corpus: Corpus, vectors: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Lists of word indices, (50, 15) of each kind."""
    draw = np.random.default_rng(seed)
    size = len(corpus.vocabulary)
    share = np.asarray((corpus.bags > 0).sum(axis=0), np.float64).ravel()
    centres = draw.choice(size, LISTS, replace=False)
    return {
        "a word and its 14 nearest": np.argsort(-(vectors[centres] @ vectors.T), axis=1)[:, :WORDS],
        "any words": np.stack([draw.choice(size, WORDS, replace=False) for _ in range(LISTS)]),
        "words by their frequency": np.stack(
            [draw.choice(size, WORDS, replace=False, p=share / share.sum()) for _ in range(LISTS)]
        ),
    }


def main() -> None:
    corpus = read_corpus(sys.argv[1])
    vectors = meanings(corpus, None, 0).words
    found: dict[str, dict[str, list[float]]] = {}
    for seed in SEEDS:
        for kind, top in lists(corpus, vectors, seed).items():
            for name, measure in (("C_V", c_v), ("NPMI", npmi)):
                score = float(measure(corpus.texts, corpus.vocabulary, top).mean())
                found.setdefault(kind, {}).setdefault(name, []).append(score)
    factor = t.ppf(0.975, len(SEEDS) - 1) / np.sqrt(len(SEEDS))
    rows = {
        kind: {
            name: {"mean": np.mean(own), "half_width": factor * np.std(own, ddof=1)}
            for name, own in scores.items()
        }
        for kind, scores in found.items()
    }
    print(json.dumps({"corpus": sys.argv[1], "seeds": len(SEEDS), "lists": rows}, indent=1))


if __name__ == "__main__":
    main()
