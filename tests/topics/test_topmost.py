"""ECRTM against TopMost on torch: the same weights, batches and noise give the same 20 updates.

tests/golden/topmost.json has their numbers, and golden_topmost.py makes them.
"""

import json

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten

from mlx_dpo.optimizers import OptimizerConfig, optimizer_at
from mlx_dpo.topics.ecrtm import ECRTM, TopicModelConfig
from mlx_dpo.topics.objective import Batch, loss_terms
from mlx_dpo.topics.top_words import top_words
from mlx_dpo.topics.training_config import TopicDpoConfig

from ..conftest import ROOT
from ..golden.golden_topmost import CASES, LEARNING_RATE, inputs

THEIRS = json.loads((ROOT / "tests" / "golden" / "topmost.json").read_text())


def ours(case):
    """As `golden_topmost.by_topmost`, in MLX."""
    weights, bags, noise = inputs(**case)
    config = TopicModelConfig(
        topics=case["topics"],
        encoder_size=case["width"],
        embedding_size=case["embedding"],
        ecr_weight=case["ecr_weight"],
    )
    model = ECRTM(case["words"], config)
    own = dict(tree_flatten(model.trainable_parameters())).keys()
    assert weights.keys() - own == {"mean.bias", "log_variance.bias"}
    model.update(tree_unflatten([(name, mx.array(weights[name])) for name in own]))
    for counts in bags:
        model.encode(mx.array(counts))
    model.eval()
    theta = np.array(model.theta(mx.array(bags[0]))[:3])
    model.train()
    optimizer = optimizer_at(OptimizerConfig(name="adam"), LEARNING_RATE)
    losses = []
    for counts, drawn in zip(bags, noise, strict=True):
        batch = Batch(mx.array(counts), mx.array(drawn), 1.0)
        gradient = nn.value_and_grad(
            model, lambda batch=batch: loss_terms(model, batch, None, TopicDpoConfig())
        )
        (loss, terms), slopes = gradient()
        optimizer.update(model, slopes)
        mx.eval(model.state, optimizer.state)
        parts = loss, terms["reconstruction"] + terms["kl"], terms["ecr"]
        losses.append([part.item() for part in parts])
    return losses, theta, np.array(model.beta())


@pytest.mark.parametrize("name", CASES)
def test_twenty_updates_have_the_losses_of_topmost(name):
    losses, theta, beta = ours(CASES[name])
    expected = np.array(THEIRS[name]["losses"])
    assert expected[0, 0] > 1.05 * expected[-1, 0]  # something was learnt
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    np.testing.assert_allclose(theta, THEIRS[name]["theta"], atol=1e-5)
    same = [
        set(a) == set(b) for a, b in zip(top_words(beta, 10).tolist(), THEIRS[name]["top_words"], strict=True)
    ]
    assert np.mean(same) >= 0.9  # words with nearly the same share may swap
