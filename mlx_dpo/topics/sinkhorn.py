"""Entropic optimal transport between topics and words, with the exact gradient of its iterations.

Source: Wu et al. 2023 (ECRTM), arXiv:2306.04217, section 3.3. Topics and words have uniform masses.

In NumPy on the CPU: an iteration is two products of a matrix with a vector, and hundreds of them follow each
other. NumPy takes a quarter of the time that MLX on the CPU takes, and a GPU gets no work large enough to
pay for its start.
"""

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import mlx.core as mx
import numpy as np

from ..errors import DpoError
from .own_gradient import with_own_gradient

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

TOLERANCE = 0.005
"""The iteration ends when the columns of the plan miss the masses of the words by at most this, in total."""
CHECK_EVERY = 50
"""The error is computed after iterations 1, 51, 101, ..."""
_TINY = 1e-16
"""Added to divisors, as in the authors' code."""
_LEAST_MASS = 0.9


class Scalings(NamedTuple):
    """What n iterations computed: `v`, (n, V), and `u`, (n + 1, K), the first one uniform."""

    u: np.ndarray
    v: np.ndarray


def scale(kernel: np.ndarray, most: int) -> Scalings:
    """Sinkhorn's iterations for exp(−alpha · cost), (K, V); at most `most` of them, at least one."""
    topics, words = kernel.shape
    u, v = [np.full(topics, 1 / topics, kernel.dtype)], []
    reached = u[0] @ kernel
    while len(v) < most:
        v.append(1 / words / (reached + _TINY))
        u.append(1 / topics / (kernel @ v[-1] + _TINY))
        reached = u[-1] @ kernel
        if len(v) % CHECK_EVERY == 1 and not np.abs(v[-1] * reached - 1 / words).sum() > TOLERANCE:
            break
    return Scalings(np.stack(u), np.stack(v))


def plan(kernel: np.ndarray, scalings: Scalings) -> np.ndarray:
    """The transport plan, (K, V): how much of each word's mass belongs to each topic."""
    return scalings.u[-1][:, None] * kernel * scalings.v[-1]


def transport_cost(cost: mx.array, alpha: float, most: int) -> mx.array:
    """Σ plan ∘ cost, (): what it costs to share the words among the topics.

    Its gradient is exact: it runs back through all iterations. Each of them needs two products of a matrix
    with a vector, as on the way there; their outer products are summed as two products of matrices.
    Evaluates the cost, so it cannot be part of a compiled function.

    Args:
        cost: (K, V), squared distances between topics and words.
        alpha: sharpness of the kernel exp(−alpha · cost), 1 / ε of the entropic transport.
        most: iterations at most.

    Raises:
        DpoError: the plan loses mass, because topics are so far from all words that the kernel is nearly 0.
    """

    def with_gradient(cost: mx.array) -> tuple[mx.array, mx.array]:
        with _numpy_blas().limit(limits=1):
            value, gradient = _cost_and_gradient(np.array(cost), alpha, most)
        return mx.array(value, cost.dtype), mx.array(gradient, cost.dtype)

    return with_own_gradient(with_gradient, cost)


@cache
def _numpy_blas() -> "ThreadpoolController":
    """NumPy's own BLAS on Linux: on several threads, it would take the cores from the BLAS of MLX."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(prefix="libscipy_openblas")


def _cost_and_gradient(cost: np.ndarray, alpha: float, most: int) -> tuple[float, np.ndarray]:
    kernel = np.exp(-alpha * cost)
    scalings = scale(kernel, most)
    shared = plan(kernel, scalings)
    if shared.sum() < _LEAST_MASS:
        raise DpoError(
            f"the transport lost {1 - shared.sum():.0%} of its mass: topics and words are too far apart",
            where="model.sinkhorn_alpha",
            hint="lower it, or lower optimizer.learning_rate, and start anew with --overwrite",
        )
    of_kernel = _kernel_gradient(kernel, cost, scalings)
    return float((shared * cost).sum()), shared - alpha * kernel * of_kernel


def _kernel_gradient(kernel: np.ndarray, cost: np.ndarray, scalings: Scalings) -> np.ndarray:
    """Gradient of Σ plan ∘ cost with respect to the kernel, (K, V), with the cost held fixed.

    From  v = b / s, s = kernelᵀ u + tiny  follows  ds = −dv · v / s = −dv · v² / b; u is the same with a.
    """
    topics, words = kernel.shape
    u, v = scalings
    weighted = kernel * cost
    of_u, of_v = weighted @ v[-1], u[-1] @ weighted
    slope_u, slope_v = -topics * np.square(u[1:]), -words * np.square(v)
    into_u, into_v = np.empty_like(slope_u), np.empty_like(slope_v)
    for n in reversed(range(len(v))):
        into_u[n] = slope_u[n] * of_u
        into_v[n] = slope_v[n] * (into_u[n] @ kernel + of_v)
        of_u, of_v = kernel @ into_v[n], 0.0
    return u[-1][:, None] * v[-1] * cost + into_u.T @ v + u[:-1].T @ into_v
