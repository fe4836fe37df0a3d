"""Planted faults are found, exact forwards are not refused, whatever the model rounds to."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from mlx_dpo.forward.pair_logps import COMPLETION, PLAIN, SEPARATE, SHARED
from mlx_dpo.forward.scoring import score_pairs, singles
from mlx_dpo.models.load import load_model
from mlx_dpo.training import forward_errors

from ..long import check_faults
from ..long.planted_faults import ABSENT, FAULTS
from ..support.policies import PAIRS, policy

CASES = [(label, fault) for label in check_faults.TINY for fault in FAULTS if fault not in ABSENT[label]]


def held(model, pair, own):
    """What a model of this dtype is proved in first."""
    return next(check_faults.proofs(model, pair, own))[1]


@pytest.fixture(scope="module")
def tiny_proof():
    """`get(label, dtype)`: the model's own call, computed once."""
    found = {}

    def get(label, dtype):
        if (label, dtype) not in found:
            model = check_faults.TINY[label]()
            model.set_dtype(check_faults.DTYPES[dtype])
            found[label, dtype] = held(check_faults.adapted(model), check_faults.random_pair(), dtype)
        return found[label, dtype]

    return get


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("label", "fault"), CASES)
def test_a_planted_fault_is_found_and_an_exact_forward_is_not_refused(tiny_proof, label, fault, dtype):
    """In bfloat16 by activations in float32."""
    above = max(tiny_proof(label, dtype).above(FAULTS[fault]))
    assert above < 0.5 if fault == "none" else above > 100


@pytest.mark.parametrize("fault", sorted(set(FAULTS) - ABSENT["SmolLM2"]))
@pytest.mark.parametrize("outliers", [False, True], ids=["as it is", "outlier channels"])
@pytest.mark.real
def test_a_fault_planted_into_a_real_model_is_found(real_proof, fault, outliers):
    above = max(real_proof(outliers).above(FAULTS[fault]))
    assert above < 1 if fault == "none" else above > 10


@pytest.fixture(scope="module")
def real_proof(smollm2):
    found = {}

    def get(outliers):
        if outliers not in found:
            model = check_faults.adapted(load_model(smollm2)[0])
            model = check_faults.outlier_channels(model) if outliers else model
            found[outliers] = held(model, check_faults.real_pair(), "float32")
        return found[outliers]

    return get


@pytest.mark.parametrize("fault", ["none", "rope off by one", "prompt without its answers' gradient"])
def test_outlier_channels_hide_no_fault(fault):
    model = check_faults.outlier_channels(check_faults.tiny("Llama, sliding windows"))
    above = max(held(model, check_faults.random_pair(), "float32").above(FAULTS[fault]))
    assert above < 1 if fault == "none" else above > 100


def test_a_model_that_rounding_throws_about_is_not_taken_at_its_word():
    """However unsteady it is, 1e-3 nats per token are the most that two forwards may differ by in float32."""
    limit = forward_errors.allowed(forward_errors.Apart(9.0, 9.0), mx.float32)
    assert limit == forward_errors.Apart(1e-3, 1e-2)
    assert forward_errors.allowed_slope(9.0, mx.float32) == 1e-2


def test_the_floor_is_only_measured_where_it_decides():
    def never():
        raise AssertionError

    one = [np.array([-1.0, -2.0])]
    assert forward_errors.agree(one, [one[0] + 1e-5], never, mx.float32)
    assert not forward_errors.agree(
        one, [one[0] + 1e-3], lambda: forward_errors.Apart(1e-5, 1e-4), mx.float32
    )
    assert forward_errors.agree(one, [one[0] + 3e-4], lambda: forward_errors.Apart(1e-4, 1e-3), mx.float32)


def test_unlike_numbers_of_tokens_never_agree_and_nan_agrees_with_nan_only():
    one = [np.array([-1.0, np.nan])]
    assert forward_errors.apart(one, one) == (0.0, 0.0)
    assert forward_errors.apart(one, [np.array([-1.0, -2.0])]).most == np.inf
    assert forward_errors.apart(one, [one[0][:1]]).rms == np.inf


@pytest.mark.parametrize("forward", [PLAIN, COMPLETION, SHARED, SEPARATE], ids=lambda f: f.name)
@pytest.mark.parametrize("architecture", ["llama", "granite", "qwen3_next"])
def test_tokens_of_a_batch_add_up_to_its_scores_and_stand_in_their_order(architecture, forward):
    """Also where the two answers are the same one, which is computed once."""
    model = policy(architecture)
    pairs = [*PAIRS, replace(PAIRS[0], rejected=PAIRS[0].chosen)]
    tokens = forward_errors.forward_tokens(model, pairs, forward)
    assert [len(t) for t in tokens] == [len(p.chosen) for p in pairs] + [len(p.rejected) for p in pairs]
    scores = score_pairs(model, pairs, forward, singles(pairs)).T.ravel()
    np.testing.assert_allclose([t.sum() for t in tokens], scores, atol=1e-4)
    assert forward_errors.apart(tokens, forward_errors.own_tokens(model, pairs)).most < 2e-5


def test_a_score_that_is_not_the_sum_of_its_tokens_is_no_score():
    def more(*args, **kwargs):
        return SHARED.score(*args, **kwargs) + 0.01

    tokens = forward_errors.forward_tokens(policy("llama"), PAIRS, SHARED._replace(score=more))
    assert all(np.isnan(t).all() for t in tokens)


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "qwen3_next"])
def test_a_half_precision_model_can_be_computed_in_float32(architecture):
    """It gives what the same weights give in float32. A CPU multiplies experts in float32 only."""
    half = policy.__wrapped__(architecture, "lora", None, mx.bfloat16)
    with forward_errors.in_float32(half):
        ours = forward_errors.own_tokens(half, PAIRS)
    half.set_dtype(mx.float32)
    assert forward_errors.apart(ours, forward_errors.own_tokens(half, PAIRS)).most < 1e-4


def test_nothing_of_a_proof_is_left_in_the_model():
    model = policy("granite")
    kinds, before = [type(layer) for layer in model.layers], forward_errors.own_tokens(model, PAIRS)
    with (
        forward_errors.in_float32(model),
        forward_errors.rounded_otherwise(model),
        pytest.raises(RuntimeError),
    ):
        raise RuntimeError
    assert [type(layer) for layer in model.layers] == kinds
    assert forward_errors.apart(forward_errors.own_tokens(model, PAIRS), before) == (0.0, 0.0)
