"""Against TRL: numbers that tests/golden/golden_trl.py stored, both sides having made the same models."""

import json
from functools import cache

import mlx.core as mx
import numpy as np
import pytest

from mlx_dpo.data.tokenize import TokenizedPair
from mlx_dpo.forward.pair_logps import COMPLETION, PLAIN, SEPARATE, SHARED, desensitised
from mlx_dpo.forward.scoring import score_pairs, singles
from mlx_dpo.losses import BetaConfig, LossConfig, PairLogps, beta_rule, build_loss
from mlx_dpo.models.adapters import AdapterConfig, attach, trainable
from mlx_dpo.models.load import load_model
from mlx_dpo.optimizers import OptimizerConfig, build_optimizer
from mlx_dpo.training.step import pair_gradient, update
from mlx_dpo.training.window_gradient import Objective, take_window, window_gradient

from ..conftest import ROOT
from ..golden import golden_models

GOLDEN = json.loads((ROOT / "tests" / "golden" / "trl.json").read_text())
MODELS = ["llama", "granite"]
PAIRS = [
    TokenizedPair(*(np.array(part, np.int32) for part in row), f"golden:{i}")
    for i, row in enumerate(golden_models.pairs())
]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """Folder of the model that TRL had, moved so far, made when first asked for."""
    root = tmp_path_factory.mktemp("golden")

    @cache
    def make(name, moved):
        made = golden_models.weights(GOLDEN["models"][name]["shapes"], moved)
        arrays = {n: mx.array(w) for n, w in made.items()}
        return golden_models.write_model(
            root / f"{name}-{moved}", name, arrays, lambda a, path: mx.save_safetensors(path, a)
        )

    return make


@pytest.fixture
def model_of(folder_of):
    """The model that TRL had, moved so far."""
    return lambda name, moved: load_model(folder_of(name, moved))[0]


@pytest.mark.parametrize("forward", [PLAIN, COMPLETION, SHARED, SEPARATE], ids=lambda f: f.name)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("which", "moved"), [("policy", GOLDEN["moved"]), ("reference", 0.0)])
def test_log_probs_are_those_of_transformers(model_of, name, forward, which, moved):
    scores = score_pairs(model_of(name, moved), PAIRS, forward, singles(PAIRS))
    np.testing.assert_allclose(scores, GOLDEN["models"][name][which], rtol=0, atol=1e-4)


def pairs_of(name):
    """The stored log-probs as what a loss takes: the whole batch is one window."""
    policy, reference = (np.array(GOLDEN["models"][name][which]) for which in ("policy", "reference"))
    lengths = np.array([[len(p.chosen), len(p.rejected)] for p in PAIRS])
    columns = [a[:, side].astype(np.float32) for a in (policy, reference) for side in (0, 1)]
    return PairLogps(*map(mx.array, (*columns, *lengths.T)), mx.array(lengths[:, 0].mean(), mx.float32))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("number", range(len(GOLDEN["models"]["llama"]["losses"])))
def test_losses_are_those_of_trl(name, number):
    settings, expected = GOLDEN["models"][name]["losses"][number]
    loss = build_loss(LossConfig(**settings))(pairs_of(name), mx.array(GOLDEN["beta"]))
    assert loss.mean().item() == pytest.approx(expected, rel=1e-5, abs=1e-5), settings


ALONE, TOGETHER = singles(PAIRS), [[*range(6)], [*range(6, 16)]]


@pytest.mark.parametrize("number", range(len(GOLDEN["models"]["llama"]["weighed"])))
@pytest.mark.parametrize(
    ("forward", "window"),
    [(PLAIN, ALONE), (COMPLETION, TOGETHER), (SHARED, ALONE), (SHARED, TOGETHER), (SEPARATE, ALONE)],
    ids=["plain", "completion, together", "shared", "shared, together", "branch by branch"],
)
@pytest.mark.parametrize("name", MODELS)
def test_weights_of_tokens_and_pairs_are_trls(model_of, name, forward, number, window):
    """LD-DPO's tokens beyond the shorter answer, WPO's pairs by how likely they are."""
    settings, expected = GOLDEN["models"][name]["weighed"][number]
    config = LossConfig(**settings)
    forward = desensitised(forward, config.ld_alpha)
    reference = score_pairs(model_of(name, 0.0), PAIRS, forward, singles(PAIRS))
    loss, policy = build_loss(config), model_of(name, GOLDEN["moved"])
    rule = beta_rule(BetaConfig(value=GOLDEN["beta"]))
    attach(policy, AdapterConfig(type="full"))
    objective = Objective(pair_gradient(policy, loss, forward), loss, rule, "two", config.wpo)
    _, result, _, _ = take_window(objective, PAIRS, window, reference, rule.init(0))
    assert result.losses.mean() == pytest.approx(expected, rel=2e-5, abs=1e-5)


@pytest.mark.parametrize("forward", [COMPLETION, SHARED], ids=lambda f: f.name)
@pytest.mark.parametrize("name", MODELS)
def test_a_run_of_20_updates_is_trls(model_of, name, forward):
    """All weights of all blocks, AdamW with decay, gradients clipped, four pairs an update in their order."""
    policy, batch = model_of(name, 0.0), GOLDEN["batch"]
    reference = score_pairs(policy, PAIRS, forward, singles(PAIRS))
    attach(policy, AdapterConfig(type="full"))
    in_blocks = {n: s for n, s in GOLDEN["models"][name]["shapes"].items() if ".layers." in n}
    assert sum(w.size for w in trainable(policy).values()) == sum(map(np.prod, in_blocks.values()))
    settings = {"weight_decay": GOLDEN["decay"], "schedule": "constant"}
    optimizer = build_optimizer(OptimizerConfig(**settings, warmup_ratio=0.0), GOLDEN["rate"], 20)
    gradient, losses = pair_gradient(policy, build_loss(LossConfig()), forward), []
    for step in range(20):
        first = step * batch % len(PAIRS)
        window = [[i] for i in range(first, first + batch)]
        mean, result = window_gradient(gradient, PAIRS, window, reference, mx.array(GOLDEN["beta"]))
        losses.append(float(result.losses.mean()))
        update(policy, optimizer, mean, 1.0)
    np.testing.assert_allclose(losses, GOLDEN["models"][name]["run"], rtol=0, atol=1e-4)
