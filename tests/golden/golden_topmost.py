#!/usr/bin/env python
"""Losses of ECRTM by TopMost on torch, for tests/topics/test_topmost.py.

    python -m venv topmost && topmost/bin/pip install numpy torch==2.13.0
    topmost/bin/pip install --no-deps topmost==1.0.2
    topmost/bin/python -m tests.golden.golden_topmost tests/golden/topmost.json

The model needs torch alone, so the rest of TopMost is not imported: it asks for gensim, plotly and more. Both
sides start from the same weights and see the same batches and the same noise, see `inputs`.
"""

import json
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np

STEPS, LEARNING_RATE = 20, 0.002
CASES = {
    "short": {"topics": 5, "words": 60, "embedding": 8, "width": 16, "documents": 20, "ecr_weight": 100.0},
    "wide": {"topics": 12, "words": 200, "embedding": 20, "width": 24, "documents": 32, "ecr_weight": 5.0},
}
_NAMES = {
    "hidden.weight": "fc11.weight",
    "hidden.bias": "fc11.bias",
    "hidden2.weight": "fc12.weight",
    "hidden2.bias": "fc12.bias",
    "mean.weight": "fc21.weight",
    "mean.bias": "fc21.bias",
    "log_variance.weight": "fc22.weight",
    "log_variance.bias": "fc22.bias",
    "mean_norm.shift": "mean_bn.bias",
    "log_variance_norm.shift": "logvar_bn.bias",
    "decoder_norm.shift": "decoder_bn.bias",
    "word_vectors": "word_embeddings",
    "topic_vectors": "topic_embeddings",
}
"""Names of our parameters, and of theirs."""


def inputs(topics, words, embedding, width, documents, ecr_weight):
    """Weights by our names, bags (STEPS, B, V) and noise (STEPS, B, K), all float32, the same everywhere.

    The biases before a batch norm, which our model does not have, start at 0.
    """
    draw = np.random.default_rng(topics * words)

    def uniform(rows, columns):
        return draw.uniform(-1, 1, (rows, columns)) / np.sqrt(columns)

    def unit(rows):
        vectors = draw.normal(size=(rows, embedding))
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    weights = {
        "hidden.weight": uniform(width, words),
        "hidden.bias": uniform(1, width)[0],
        "hidden2.weight": uniform(width, width),
        "hidden2.bias": uniform(1, width)[0],
        "mean.weight": uniform(topics, width),
        "mean.bias": 0 * uniform(1, topics)[0],
        "log_variance.weight": uniform(topics, width),
        "log_variance.bias": 0 * uniform(1, topics)[0],
        "mean_norm.shift": np.zeros(topics),
        "log_variance_norm.shift": np.zeros(topics),
        "decoder_norm.shift": np.zeros(words),
        "word_vectors": unit(words),
        "topic_vectors": unit(topics),
    }
    shares = draw.dirichlet(np.full(words, 0.1), topics)
    mixed = draw.dirichlet(np.full(topics, 0.3), (STEPS, documents)) @ shares
    bags = draw.poisson(20 * mixed) + (draw.random((STEPS, documents, words)) < 1 / words)
    noise = draw.normal(size=(STEPS, documents, topics))
    small = {name: value.astype(np.float32) for name, value in weights.items()}
    return small, bags.astype(np.float32), noise.astype(np.float32)


def by_topmost(case):
    """Topics of three documents before the first update; the loss and its parts at each; then top words."""
    import torch

    sys.path.insert(0, str(Path(find_spec("topmost").origin).parent / "models" / "basic"))
    from ECRTM.ECRTM import ECRTM

    weights, bags, noise = inputs(**case)
    model = ECRTM(
        case["words"],
        num_topics=case["topics"],
        en_units=case["width"],
        embed_size=case["embedding"],
        weight_loss_ECR=case["ecr_weight"],
    )
    theirs = dict(model.named_parameters())
    for name, value in weights.items():
        theirs[_NAMES[name]].data.copy_(torch.from_numpy(value))
    with torch.no_grad():
        for batch in bags:  # the running statistics of the weights at the start
            model.encode(torch.from_numpy(batch))
        model.eval()
        theta = model.get_theta(torch.from_numpy(bags[0]))[:3]
        model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    losses = []
    for batch, drawn in zip(bags, noise, strict=True):
        drawn = torch.from_numpy(drawn)
        model.reparameterize = lambda mu, logvar, drawn=drawn: mu + torch.exp(0.5 * logvar) * drawn
        found = model(torch.from_numpy(batch))
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
        losses.append([found[name].item() for name in ("loss", "loss_TM", "loss_ECR")])
    order = model.get_beta().argsort(dim=1, descending=True)
    return {"losses": losses, "theta": theta.tolist(), "top_words": order[:, :10].tolist()}


def main(path):
    found = {"versions": {name: version(name) for name in ("topmost", "torch", "numpy")}}
    found |= {name: by_topmost(case) for name, case in CASES.items()}
    Path(path).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
