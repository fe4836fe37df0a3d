"""LD-DPO: tokens beyond the shorter answer of a pair count less."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_dpo.forward.pair_logps import COMPLETION, PLAIN, SEPARATE, SHARED, desensitised
from mlx_dpo.forward.scoring import score_pairs, singles
from mlx_dpo.jobs.evaluate import evaluate_run
from mlx_dpo.jobs.train import train_run
from mlx_dpo.losses import LossConfig, build_loss
from mlx_dpo.training.step import pair_gradient
from mlx_dpo.training.window_gradient import window_gradient

from ..support.policies import PAIRS, policy
from ..support.runs import rows_of

FORWARDS = [PLAIN, COMPLETION, SHARED, SEPARATE]


def cut(pair):
    """Both answers as long as the shorter one."""
    shorter = min(len(pair.chosen), len(pair.rejected))
    return replace(pair, chosen=pair.chosen[:shorter], rejected=pair.rejected[:shorter])


def test_the_pairs_have_answers_of_unlike_length():
    assert any(len(p.chosen) > len(p.rejected) for p in PAIRS)
    assert any(len(p.chosen) < len(p.rejected) for p in PAIRS)


@pytest.mark.parametrize("batches", [singles(PAIRS), [range(len(PAIRS))]], ids=["alone", "together"])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("forward", FORWARDS, ids=lambda f: f.name)
def test_a_score_is_that_of_the_common_length_and_a_part_of_the_rest(forward, alpha, batches):
    model = policy("granite")
    whole = score_pairs(model, PAIRS, PLAIN, singles(PAIRS))
    common = score_pairs(model, [cut(p) for p in PAIRS], PLAIN, singles(PAIRS))
    scores = score_pairs(model, PAIRS, desensitised(forward, alpha), batches)
    np.testing.assert_allclose(scores, (1 - alpha) * common + alpha * whole, rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("forward", FORWARDS[1:], ids=lambda f: f.name)
def test_gradients_are_those_of_the_models_own_call(forward):
    model, reference = policy("granite"), np.zeros((len(PAIRS), 2), np.float32)
    window = [list(range(len(PAIRS)))]

    def gradient(forward):
        compute = pair_gradient(model, build_loss(LossConfig(name="ipo")), desensitised(forward, 0.3))
        mean, _ = window_gradient(compute, PAIRS, window, reference, mx.array(0.1))
        return np.concatenate([np.array(g).flatten() for _, g in tree_flatten(mean)])

    expected, actual = gradient(PLAIN), gradient(forward)
    assert np.linalg.norm(actual - expected) <= 1e-4 * np.linalg.norm(expected)


def test_one_answer_of_two_pairs_counts_in_each_by_the_others_length():
    """Two pairs that share a prompt and a chosen answer, which is longer than one rejected answer only."""
    first = next(p for p in PAIRS if len(p.chosen) > len(p.rejected))
    longer = np.concatenate([first.rejected[:-1], first.chosen, first.rejected[-1:]])
    second = replace(first, rejected=longer)
    model = policy("llama")
    alone = score_pairs(model, [first, second], desensitised(SHARED, 0.3), [[0], [1]])
    together = score_pairs(model, [first, second], desensitised(SHARED, 0.3), [[0, 1]])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=2e-4)
    assert abs(alone[0, 0] - alone[1, 0]) > 1


def test_a_run_takes_policy_and_reference_alike(configure, capsys):
    folder = train_run(configure("llama", "loss.ld_alpha=0.4")).folder
    reports, held_out = rows_of(folder)
    capsys.readouterr()
    # An evaluation of the run says what the run itself said last, and finds its reference.
    again = evaluate_run(folder, samples=0)
    assert again.metrics["loss"] == pytest.approx(held_out[-1]["eval/loss"], rel=1e-6)
    assert "2 pairs from the cache" in capsys.readouterr().err
    full, _ = rows_of(train_run(configure("llama", output="full")).folder)
    assert reports[0]["rewards/margins"] == 0 == held_out[0]["eval/rewards/margins"]
    assert full[0]["logps/chosen"] < reports[0]["logps/chosen"] < 0
