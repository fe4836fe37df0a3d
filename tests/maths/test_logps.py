"""Log-probabilities against float64, and their sums in float32 whatever the model's dtype."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_dpo.logps import completion_logps, log_sum, log_sum_and_softmax, sum_scored, token_logps


def exact_logps(logits, targets):
    """log softmax in float64, token by token."""
    logits = np.asarray(logits, np.float64)
    top = logits.max(axis=-1, keepdims=True)
    logps = logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))
    return np.take_along_axis(logps, targets[..., None], axis=-1)[..., 0]


def random_case(shape=(3, 7, 501), scale=4.0, seed=0):
    rng = np.random.default_rng(seed)
    return scale * rng.standard_normal(shape), rng.integers(0, shape[-1], shape[:-1])


def test_three_tokens_by_hand():
    """Odds 1 : 2 : 5 give probabilities 1/8, 2/8 and 5/8."""
    logits = mx.log(mx.array([[[1.0, 2.0, 5.0]] * 3]))
    logps = token_logps(logits, mx.array([[0, 1, 2]]))
    np.testing.assert_allclose(np.array(logps), np.log([[1 / 8, 2 / 8, 5 / 8]]), rtol=1e-6)


@pytest.mark.parametrize("scale", [0.01, 4.0, 300.0])
def test_log_probabilities_agree_with_float64(scale):
    logits, targets = random_case(scale=scale)
    actual = token_logps(mx.array(logits.astype(np.float32)), mx.array(targets))
    expected = exact_logps(logits.astype(np.float32), targets)
    np.testing.assert_allclose(np.array(actual), expected, rtol=2e-6, atol=2e-6)


def test_probabilities_of_all_tokens_sum_to_one():
    logits, _ = random_case((1, 1, 501))
    every = mx.array(np.repeat(logits, 501, axis=1).astype(np.float32))
    logps = token_logps(every, mx.arange(501)[None])
    assert mx.exp(logps).sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("shift", [-1024.0, 64.0, 1024.0, 32768.0])
def test_a_constant_added_to_all_logits_changes_nothing_but_the_rounding_of_such_numbers(shift):
    """One rounding of a float32 as large as the logits: 3.8e-6 at 64."""
    logits = mx.array([[[0.0, 1.0, 3.0, -2.0]]])
    targets = mx.array([[1]])
    expected = token_logps(logits, targets).item()
    rounding = float(np.spacing(np.float32(abs(shift))))
    assert token_logps(logits + shift, targets).item() == pytest.approx(expected, abs=rounding)


@pytest.mark.parametrize(("dtype", "loss"), [(mx.bfloat16, 1.0), (mx.float16, 0.5)], ids=["bf16", "f16"])
def test_half_precision_logits_are_summed_in_float32(dtype, loss):
    """400 tokens over 5,000 words; summed in their own dtype the scores are off by more than `loss` nats."""
    logits, targets = random_case((2, 400, 5000), scale=1.0, seed=1)
    half = mx.array(logits.astype(np.float32)).astype(dtype)
    mask = mx.ones((2, 400), mx.bool_)
    expected = exact_logps(np.array(half.astype(mx.float32)), targets).sum(axis=-1)

    scores = completion_logps(half, mx.array(targets), mask)
    assert scores.dtype == mx.float32
    np.testing.assert_allclose(np.array(scores), expected, atol=2e-3)

    picked = mx.take_along_axis(half, mx.array(targets)[..., None], axis=-1).squeeze(-1)
    summed = (picked - mx.logsumexp(half, axis=-1)).sum(axis=-1)
    off = np.abs(np.array(summed.astype(mx.float32)) - expected)
    assert off.max() > loss


def test_a_completions_score_is_the_sum_over_its_own_tokens():
    """Odds of 1 : 1 : 2: two tokens of 1/4 and one of 1/2 are 5 bits; two of 1/2 are 2 bits."""
    logits = mx.log(mx.array([[[1.0, 1.0, 2.0]] * 4] * 2))
    targets = mx.array([[0, 1, 2, 0], [2, 2, 1, 1]])
    mask = mx.array([[1, 1, 1, 0], [1, 1, 0, 0]]).astype(mx.bool_)
    scores = completion_logps(logits, targets, mask)
    np.testing.assert_allclose(np.array(scores), -np.log(2) * np.array([5, 2]), rtol=1e-6)


def test_a_sum_over_a_thousand_tokens_is_rounded_once():
    """Within half a unit in the last place of the float64 sum, forwards and backwards."""
    logps = -np.random.default_rng(0).gamma(2, 1.5, (50, 1000)).astype(np.float32)
    exact = logps.astype(np.float64).sum(axis=-1)
    for order in (slice(None), slice(None, None, -1)):
        sums = np.array(sum_scored(mx.array(logps[:, order].copy()), mx.ones(logps.shape, mx.bool_)))
        assert (np.abs(sums - exact) / np.spacing(np.abs(sums))).max() <= 0.51


def test_masked_positions_do_not_count_whatever_stands_there():
    logits, targets = random_case((2, 6, 50))
    mask = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]], bool)
    clean = completion_logps(mx.array(logits.astype(np.float32)), mx.array(targets), mx.array(mask))
    for filler in (np.nan, np.inf, -np.inf, 1e30):
        spoilt = np.where(mask[..., None], logits, filler).astype(np.float32)
        scores = completion_logps(mx.array(spoilt), mx.array(targets), mx.array(mask))
        np.testing.assert_array_equal(np.array(scores), np.array(clean))


def test_without_a_scored_token_the_score_is_0():
    logits, targets = random_case((1, 4, 9))
    score = completion_logps(
        mx.array(logits.astype(np.float32)), mx.array(targets), mx.zeros((1, 4), mx.bool_)
    )
    assert score.tolist() == [0.0]


def test_masked_positions_have_no_gradient_and_the_others_have_the_softmaxs():
    """d score / d logits = one-hot − softmax where scored, 0 elsewhere."""
    logits, targets = random_case((1, 3, 5))
    mask = mx.array([[True, True, False]])
    value = mx.array(logits.astype(np.float32))
    gradient = np.array(mx.grad(lambda x: completion_logps(x, mx.array(targets), mask).sum())(value))
    softmax = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    expected = np.eye(5)[targets] - softmax
    expected[0, 2] = 0
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_a_token_that_is_impossible_scores_minus_infinity_not_nan():
    logits = mx.array([[[0.0, -np.inf, 1.0]]])
    assert token_logps(logits, mx.array([[1]])).item() == -np.inf


@pytest.mark.parametrize("count", [49_152, 49_155])
def test_log_sums_over_a_real_vocabulary_are_exact_in_float32(count):
    """One after the other, as MLX on a CPU adds, the mean of 64 tokens would be off by 1e-4 nats."""
    logits, _ = random_case((64, count), scale=3.0)
    logits = logits.astype(np.float32)
    exact = np.log(np.exp(logits.astype(np.float64)).sum(axis=-1))
    off = np.array(log_sum(mx.array(logits))) - exact
    assert np.abs(off).max() < 4e-6
    assert abs(off.mean()) < 1e-6


def test_softmax_beside_the_log_sum_is_its_gradient():
    logits = mx.array(random_case((3, 700))[0].astype(np.float32))
    gradient = mx.grad(lambda x: log_sum(x).sum())(logits)
    np.testing.assert_allclose(np.array(gradient), np.array(log_sum_and_softmax(logits)[1]), atol=1e-7)
