"""Topics as clusters of documents, compared with labels: each document belongs to its largest topic."""

import numpy as np


def purity(labels: np.ndarray, clusters: np.ndarray) -> float:
    """Share of documents that have the most frequent label of their cluster, in (0, 1].

    More clusters give a higher purity: compare only models with the same number of topics.

    labels [0, 0, 1, 1], clusters [0, 0, 0, 1] -> (2 + 1) / 4
    """
    _, labels = np.unique(labels, return_inverse=True)
    _, clusters = np.unique(clusters, return_inverse=True)
    counts = np.zeros((clusters.max() + 1, labels.max() + 1), np.int64)
    np.add.at(counts, (clusters, labels), 1)
    return float(counts.max(axis=1).sum() / len(labels))


def nmi(labels: np.ndarray, clusters: np.ndarray) -> float:
    """Normalised mutual information of labels and clusters, in [0, 1], by the mean of the entropies."""
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(labels, clusters))
