"""Entropic optimal transport between topics and words, with the exact gradient of its iterations.

Source: Wu et al. 2023 (ECRTM), arXiv:2306.04217, section 3.3. Topics and words have uniform masses.
"""

from typing import NamedTuple

import mlx.core as mx

from .own_gradient import with_own_gradient

TOLERANCE = 0.005
"""The iteration ends when the columns of the plan miss the masses of the words by at most this, in total."""
CHECK_EVERY = 50
"""The error is computed after iterations 1, 51, 101, ..."""
_TINY = 1e-16


class Scalings(NamedTuple):
    """What n iterations computed: n times `v`, (V,), and n + 1 times `u`, (K,), the first one uniform."""

    u: list[mx.array]
    v: list[mx.array]


def scale(kernel: mx.array, most: int) -> Scalings:
    """Sinkhorn's iterations for exp(−alpha · cost), (K, V); at most `most` of them, at least one.

    Evaluates arrays, so it cannot be part of a compiled function.
    """
    topics, words = kernel.shape
    u, v, transposed = [mx.full((topics,), 1 / topics, kernel.dtype)], [], kernel.T
    reached = transposed @ u[0]
    while len(v) < most:
        v.append(1 / words / (reached + _TINY))
        u.append(1 / topics / (kernel @ v[-1] + _TINY))
        reached = transposed @ u[-1]
        if len(v) % CHECK_EVERY == 1 and not mx.abs(v[-1] * reached - 1 / words).sum().item() > TOLERANCE:
            break
    return Scalings(u, v)


def plan(kernel: mx.array, scalings: Scalings) -> mx.array:
    """The transport plan, (K, V): how much of each word's mass belongs to each topic."""
    return scalings.u[-1][:, None] * kernel * scalings.v[-1]


def transport_cost(cost: mx.array, alpha: float, most: int) -> mx.array:
    """Σ plan ∘ cost, (): what it costs to share the words among the topics.

    Its gradient is exact: it runs back through all iterations. Each of them needs two products of a matrix
    with a vector, as on the way there; their outer products are summed as two products of matrices.

    Args:
        cost: (K, V), squared distances between topics and words.
        alpha: sharpness of the kernel exp(−alpha · cost), 1 / ε of the entropic transport.
        most: iterations at most.
    """

    def with_gradient(cost: mx.array) -> tuple[mx.array, mx.array]:
        kernel = mx.exp(-alpha * cost)
        scalings = scale(kernel, most)
        shared = plan(kernel, scalings)
        of_kernel = _kernel_gradient(kernel, cost, scalings)
        return (shared * cost).sum(), shared - alpha * kernel * of_kernel

    return with_own_gradient(with_gradient, cost)


def _kernel_gradient(kernel: mx.array, cost: mx.array, scalings: Scalings) -> mx.array:
    """Gradient of Σ plan ∘ cost with respect to the kernel, (K, V), with the cost held fixed.

    From  v = b / s, s = kernelᵀ u + tiny  follows  ds = −dv · v / s = −dv · v² / b; u is the same with a.
    """
    topics, words = kernel.shape
    u, v = scalings
    weighted, transposed = kernel * cost, kernel.T
    of_u, of_v = weighted @ v[-1], weighted.T @ u[-1]
    into_u, into_v = [], []
    for own_v, own_u in zip(reversed(v), reversed(u[1:]), strict=True):
        into_u.append(-topics * of_u * mx.square(own_u))
        through = transposed @ into_u[-1]
        into_v.append(-words * (of_v + through if own_v is v[-1] else through) * mx.square(own_v))
        of_u = kernel @ into_v[-1]
    through_u = mx.stack(into_u[::-1]).T @ mx.stack(v)
    through_v = mx.stack(u[:-1]).T @ mx.stack(into_v[::-1])
    return u[-1][:, None] * v[-1] * cost + through_u + through_v
