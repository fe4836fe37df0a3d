"""A real model's scores and gradient against float64: numbers that tests/golden/golden_smollm2.py stored."""

import json
import os

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_dpo.data.tokenize import TokenizedPair
from mlx_dpo.forward.pair_logps import COMPLETION, PLAIN, SEPARATE, SHARED
from mlx_dpo.forward.scoring import score_pairs, singles
from mlx_dpo.models.adapters import AdapterConfig, attach, trainable
from mlx_dpo.models.load import load_model
from mlx_dpo.training.forward_check import choose_forward

from ..conftest import ROOT
from ..golden import golden_smollm2

pytestmark = pytest.mark.real
GOLDEN = json.loads((ROOT / "tests" / "golden" / "smollm2.json").read_text())
TRUTH = GOLDEN["truth"]
PAIRS = [
    TokenizedPair(*(np.array(part, np.int32) for part in row["tokens"]), f"golden:{row['id']}")
    for row in GOLDEN["pairs"]
]
FORWARDS = pytest.mark.parametrize("forward", [PLAIN, COMPLETION, SHARED], ids=lambda f: f.name)


@pytest.fixture(scope="module")
def base(smollm2):
    return load_model(smollm2)[0]


@pytest.fixture(scope="module")
def adapted(smollm2):
    """The model with the adapter that the stored gradient is of."""
    model, _ = load_model(smollm2)
    attach(model, AdapterConfig(rank=golden_smollm2.RANK, scale=golden_smollm2.SCALE))
    shapes = {
        name.removesuffix(".lora_a"): (trainable(model)[name[:-1] + "b"].shape[1], a.shape[0])
        for name, a in trainable(model).items()
        if name.endswith("lora_a")
    }
    made = {name: mx.array(a) for name, a in golden_smollm2.lora(shapes).items()}
    assert set(made) == set(trainable(model))
    model.load_weights(list(made.items()), strict=False)
    return model


@FORWARDS
def test_scores_of_real_pairs_are_within_2_thousandths_of_a_nat_of_float64(base, forward):
    """By default half of the pairs with the forward that runs take, fewer with the slower ones."""
    every = 1 if os.environ.get("MLX_DPO_EVERY_COMBINATION") else 2 if forward is SHARED else 4
    rows = range(0, len(PAIRS), every)
    pairs = [PAIRS[row] for row in rows]
    scores = score_pairs(base, pairs, forward, singles(pairs))
    assert np.abs(scores - np.array(TRUTH["scores"])[list(rows)]).max() <= 2e-3


def test_prompts_of_a_real_model_are_shared(base):
    assert choose_forward(base, PAIRS, "auto") is SHARED


@pytest.mark.parametrize("forward", [PLAIN, SHARED, SEPARATE], ids=lambda f: f.name)
def test_the_gradient_of_a_real_models_first_block_is_that_of_float64(adapted, forward):
    batch, block = forward.build(PAIRS[:1]), adapted.layers[0]
    shares = mx.array(golden_smollm2.SHARES)

    def summed(parameters):
        block.update(parameters)
        scores = forward.score(adapted, batch, gradient=True)
        return (scores * shares).sum(), scores

    own = block.trainable_parameters()
    adapted.train()
    (_, scores), gradient = mx.value_and_grad(summed)(own)
    block.update(own)
    np.testing.assert_allclose(np.array(scores), TRUTH["adapted"], rtol=0, atol=2e-3)
    found = {name: np.array(g, np.float64).ravel() for name, g in tree_flatten(gradient)}
    assert set(found) == set(TRUTH["gradient"])
    error = sum(
        np.square(golden_smollm2.directions(name, g.size) @ g - TRUTH["gradient"][name]["products"]).mean()
        for name, g in found.items()
    )
    size = sum(stored["norm"] ** 2 for stored in TRUTH["gradient"].values())
    assert (error / size) ** 0.5 <= 1e-3
