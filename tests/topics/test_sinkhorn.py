"""The transport between topics and words: its value, when it stops, and its gradient."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_dpo.errors import DpoError
from mlx_dpo.topics.sinkhorn import CHECK_EVERY, TOLERANCE, plan, scale, transport_cost

from ..support import exact_topics

HAND = np.array([[0.1, 0.5, 1.0], [0.9, 0.4, 0.2]])


def random_cost(topics, words, seed=0, most=2.0):
    return np.random.default_rng(seed).uniform(0, most, (topics, words))


def iterations(cost, alpha=20.0, most=1000):
    return len(scale(np.exp(-alpha * cost.astype(np.float32)), most).v)


def test_the_worked_example_stops_at_iteration_51_with_a_cost_of_a_quarter():
    assert iterations(HAND) == 51
    assert transport_cost(mx.array(HAND, mx.float32), 20.0, 1000).item() == pytest.approx(0.25, abs=1e-6)


def test_the_plan_of_the_worked_example_splits_the_middle_word_by_hand():
    """Topics have 1/2 each, words 1/3 each: the outer words go whole, and the middle one is halved."""
    kernel = np.exp(-20 * HAND.astype(np.float32))
    shares = plan(kernel, scale(kernel, 1000))
    np.testing.assert_allclose(shares, np.array([[2, 1, 0], [0, 1, 2]]) / 6, atol=1e-5)


@pytest.mark.parametrize(("topics", "words"), [(2, 3), (5, 40), (50, 300)])
def test_value_and_iterations_are_those_of_float64(topics, words):
    cost = random_cost(topics, words)
    value, count, _ = exact_topics.sinkhorn(cost)
    assert iterations(cost) == count
    assert transport_cost(mx.array(cost, mx.float32), 20.0, 1000).item() == pytest.approx(value, rel=1e-4)


def test_the_error_is_looked_at_after_one_iteration_and_then_every_fifty():
    even = np.zeros((3, 7))
    assert iterations(even) == 1
    assert iterations(random_cost(6, 60)) % CHECK_EVERY == 1
    assert iterations(random_cost(6, 60), most=20) == 20


def test_when_it_stops_by_itself_the_words_have_their_masses():
    cost = random_cost(6, 60)
    kernel = np.exp(-20 * cost.astype(np.float32))
    shares = plan(kernel, scale(kernel, 1000))
    assert np.abs(shares.sum(axis=0) - 1 / 60).sum() <= TOLERANCE
    np.testing.assert_allclose(shares.sum(axis=1), 1 / 6, rtol=1e-5)


@pytest.mark.parametrize("most", [1, 2, 1000])
@pytest.mark.parametrize(("cost", "alpha"), [(HAND, 20.0), (random_cost(4, 9, most=0.6), 7.0)])
def test_the_gradient_is_that_of_finite_differences_in_float64(cost, alpha, most):
    """The function differentiated in float64 is the package's own; the differences are of the restatement."""
    with mx.stream(mx.cpu):
        own = mx.grad(lambda cost: transport_cost(cost, alpha, most))(mx.array(cost, mx.float64))
        expected = exact_topics.slope(lambda cost: exact_topics.sinkhorn(cost, alpha, most)[0], cost)
        np.testing.assert_allclose(np.array(own), expected, rtol=1e-6, atol=1e-8)


def test_the_gradient_is_that_of_mlx_through_every_iteration():
    """The same iterations written out, differentiated by MLX."""
    cost = mx.array(random_cost(5, 30, most=0.5), mx.float32)
    count = iterations(np.array(cost))

    def unrolled(cost):
        kernel, u = mx.exp(-20 * cost), mx.full((5,), 1 / 5)
        for _ in range(count):
            v = 1 / 30 / (kernel.T @ u + 1e-16)
            u = 1 / 5 / (kernel @ v + 1e-16)
        return (u[:, None] * kernel * v * cost).sum()

    expected = np.array(mx.grad(unrolled)(cost))
    own = np.array(mx.grad(lambda cost: transport_cost(cost, 20.0, 1000))(cost))
    np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-6)


def test_the_gradient_is_scaled_by_what_uses_the_cost():
    cost = mx.array(random_cost(3, 8), mx.float32)
    plain = mx.grad(lambda cost: transport_cost(cost, 20.0, 1000))(cost)
    squared = mx.grad(lambda cost: mx.square(transport_cost(cost, 20.0, 1000)))(cost)
    value = transport_cost(cost, 20.0, 1000).item()
    np.testing.assert_allclose(np.array(squared), 2 * value * np.array(plain), rtol=1e-5)


@pytest.mark.parametrize(("distance", "lost"), [(3.0, None), (4.0, "100%")])
def test_mass_that_is_lost_is_told(distance, lost):
    """exp(−20 · 4) = 1.8e-35 is lost beside the tiny number that is added to divisors."""
    cost = mx.array(np.full((3, 5), distance), mx.float32)
    if lost is None:
        assert transport_cost(cost, 20.0, 1000).item() == pytest.approx(distance, rel=1e-5)
        return
    with pytest.raises(DpoError) as error:
        transport_cost(cost, 20.0, 1000)
    assert error.value.where == "model.sinkhorn_alpha" and f"lost {lost} of its mass" in error.value.what
