"""Choose the attention of a run, the toolkit's blocks or MLX's kernel, by measuring the run's shapes."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from time import perf_counter
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ..data.tokenize import TokenizedPair
from ..forward.kernels import attention, lean
from ..forward.mlx_attention import BLOCKS, FUSED, Call, attending, noted_calls
from ..forward.pair_logps import Forward
from ..forward.prompt_cache import Keys
from ..training.layout import Layout
from .graph_operations import trace
from .model_without_weights import Skeleton
from .step_memory import first_possible, forward_of, largest

_SECONDS = 0.2
"""Time for repeating one measurement; the fastest repetition counts."""
_SAMPLED = 256
"""Number of queries with a cotangent: their softmax rows in float64 take the host only a moment."""
_KINDS = 4
"""Number of kinds of calls that are measured, the most expensive first."""

_AS_GOOD, _NOISE, _FAR = 2.0, 1e-6, 0.02
_MORE, _SLOWER, _HALF, _MUCH_SLOWER = 1.25, 1.05, 0.5, 1.5


class Measured(NamedTuple):
    """One way of attention on a run's shapes.

    `error`: the largest relative error of outputs and gradients; infinite if the attention fails. `seconds`:
    of forward and backward, summed over the calls of one layer. `peak`: bytes, of the largest call.
    `failure`: the error message if the attention fails.
    """

    error: float
    seconds: float
    peak: int
    failure: str = ""


def choose(own: Measured, fused: Measured) -> tuple[str, str]:
    """FUSED or BLOCKS, and why in words.

    MLX's kernel is chosen if all of this is true:
    - exact: its error is at most twice the blocks' error plus 1e-6, and at most 2 % in any precision;
    - lean: its peak is at most 1.25 times the blocks' peak;
    - quick: its time is at most 1.05 times the blocks' time, or 1.5 times if it halves the peak.
    """
    figures = (
        f"{fused.seconds * 1e3:.1f} ms and {fused.peak / 1e6:,.0f} MB per layer, blocks "
        f"{own.seconds * 1e3:.1f} ms and {own.peak / 1e6:,.0f} MB"
    )
    if fused.failure:
        return BLOCKS, f"blocks, because MLX's kernel fails on this device ({fused.failure})"
    if own.failure and fused.error <= _FAR:
        return FUSED, f"MLX's kernel, because blocks fail on this device ({own.failure})"
    if not fused.error <= min(_FAR, _AS_GOOD * own.error + _NOISE):
        return BLOCKS, (
            f"blocks, because MLX's kernel is not exact here: relative error {fused.error:.2g}, "
            f"blocks {own.error:.2g}"
        )
    if fused.peak > _MORE * own.peak:
        return BLOCKS, f"blocks, because MLX's kernel needs more memory: {figures}"
    if fused.seconds <= _SLOWER * own.seconds:
        return FUSED, f"MLX's kernel, which is as exact and no slower: {figures}"
    if fused.peak <= _HALF * own.peak and fused.seconds <= _MUCH_SLOWER * own.seconds:
        return FUSED, f"MLX's kernel, which is as exact and needs half the memory: {figures}"
    return BLOCKS, f"blocks, because MLX's kernel is slower: {figures}"


def settle(calls: Iterable[Call], measure: Callable[[Call, str], Measured] | None = None) -> tuple[str, str]:
    """`choose` for these calls, at least one.

    Args:
        measure: measures one call with one kind of attention; by default `measured`.
    """
    kinds = sorted(Counter(calls).items(), key=lambda item: -item[1] * _work(item[0]))[:_KINDS]
    ways = [
        _together([((measure or measured)(call, how), n) for call, n in kinds]) for how in (BLOCKS, FUSED)
    ]
    return choose(*ways)


def _work(call: Call) -> int:
    n, heads, length, size = call.queries
    return n * heads * length * call.keys[2] * size


def _together(found: Sequence[tuple[Measured, int]]) -> Measured:
    """The measurements of a layer, in which some kinds of calls occur several times."""
    layers = min(n for _, n in found)
    return Measured(
        max((m.error for m, _ in found), key=lambda e: np.inf if np.isnan(e) else e),
        sum(m.seconds * n for m, n in found) / layers,
        max(m.peak for m, _ in found),
        next((m.failure for m, _ in found if m.failure), ""),
    )


def attention_calls(
    skeleton: Skeleton, pairs: Sequence[TokenizedPair], micro_batch: int, forward: str, *, separate: bool
) -> list[Call]:
    """Every call of causal attention in the forward pass of the largest micro-batch.

    Args:
        forward: the setting; for auto, the first forward that the model's own code allows.
        separate: prompts are shared branch by branch.
    """
    model, batch = skeleton.model, largest(pairs, micro_batch)[0]

    def calls(choice: Forward) -> list[Call]:
        with noted_calls() as found:
            trace(
                lambda: choice.score(model, choice.build(batch), gradient=False),
                blocks=model.layers,
                forget=lambda: model.update(skeleton.parameters),
            )
        return found

    model.eval()
    return first_possible(forward_of(forward, Layout(False, separate)), calls)


def measured(call: Call, how: str) -> Measured:
    """Error, time and peak memory of one call; `how` is FUSED or BLOCKS."""
    given = _inputs(call)
    cotangent, rows = _cotangent(call)

    def loss(*arrays: mx.array) -> tuple[mx.array, mx.array]:
        output = attended(call, arrays)
        return (output * cotangent).astype(mx.float32).sum(), output

    def run() -> list[mx.array]:
        with attending(how), lean():
            (_, output), slopes = mx.value_and_grad(loss, argnums=list(range(len(given))))(*given)
        found = [output, *slopes]
        mx.eval(found)
        return found

    try:
        mx.eval(given, cotangent)
        found = run()  # kernels are compiled when first used
        error = _error(call, given, cotangent, rows, found)
        del found
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        run()
        peak = mx.get_peak_memory() - before
        seconds = _fastest(run)
    except (RuntimeError, ValueError, MemoryError) as failure:
        return Measured(float("inf"), float("inf"), 0, str(failure).partition("\n")[0])
    return Measured(error, seconds, peak)


def attended(call: Call, arrays: Sequence[mx.array]) -> mx.array:
    """Attention as a model calls it: queries, own keys and values, then those of prompts, if any."""
    queries, keys, values, *prompt = arrays
    cache = Keys(prompt=tuple(prompt) if prompt else None)
    fetched = cache.update_and_fetch(keys, values)
    return attention(queries, *fetched, cache, call.scale, "causal")


def _fastest(run: Callable[[], object]) -> float:
    best, start = float("inf"), perf_counter()
    while True:
        began = perf_counter()
        run()
        now = perf_counter()
        best = min(best, now - began)
        if now - start > _SECONDS:
            return best


def _inputs(call: Call) -> list[mx.array]:
    """Random arrays for `attended`, the same every time."""
    own = call.keys[2] - call.prompt
    shapes = [call.queries, *((*a[:2], own, a[3]) for a in (call.keys, call.values))]
    if call.prompt:
        shapes += [(call.prompts, a[1], call.prompt, a[3]) for a in (call.keys, call.values)]
    keys = mx.random.split(mx.random.key(0), len(shapes))
    return [mx.random.normal(s, key=k).astype(call.dtype) for s, k in zip(shapes, keys, strict=True)]


def _cotangent(call: Call) -> tuple[mx.array, np.ndarray]:
    """A cotangent that is random at some queries, evenly spread, and 0 elsewhere; and these queries."""
    n, heads, length, _ = call.queries
    rows = np.unique(np.linspace(0, length - 1, min(length, _SAMPLED)).round().astype(int))
    mask = np.zeros((length, 1), np.float32)
    mask[rows] = 1
    shape = (n, heads, length, call.values[3])
    return (mx.random.normal(shape, key=mx.random.key(1)) * mx.array(mask)).astype(call.dtype), rows


def _error(
    call: Call, given: Sequence[mx.array], cotangent: mx.array, rows: np.ndarray, found: Sequence[mx.array]
) -> float:
    """Relative error against float64 of outputs and gradients, for one prompt's answers and one key head."""
    answers = len(given[0]) // call.prompts
    group = call.queries[1] // call.keys[1]
    heads = (group, *(1 for _ in given[1:]))
    counts = (answers, answers, answers, 1, 1)
    part = [_float64(a[:n, :h]) for a, n, h in zip(given, counts, heads, strict=False)]
    truth = exact(part, _float64(cotangent[:answers, :group]), rows, call.scale)
    ours = [
        found[0][:answers, :group],
        *(a[:n, :h] for a, n, h in zip(found[1:], counts, heads, strict=False)),
    ]
    ours = [_float64(a) for a in ours]
    ours[0] = ours[0][:, :, rows]
    off = [np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30) for a, b in zip(ours, truth, strict=True)]
    return float(np.max(off))  # NaN if any is; Python's max may lose it


def _float64(array: mx.array) -> np.ndarray:
    return np.array(array.astype(mx.float32)).astype(np.float64)


def exact(
    given: Sequence[np.ndarray], cotangent: np.ndarray, rows: np.ndarray, scale: float
) -> list[np.ndarray]:
    """Causal attention and its gradients in float64 on the host, for one key head.

    Args:
        given: queries (N, R, L, D), keys and values (N, 1, T, ...), then perhaps keys and values of one
            prompt (1, 1, P, ...), which come first in the sequence.
        cotangent: (N, R, L, E), 0 except for the queries `rows`.

    Returns:
        Outputs of these rows (N, R, rows, E), and the gradient of each of `given`.
    """
    queries, keys, values, *prompt = given
    n, _, length, _ = queries.shape
    before = prompt[0].shape[2] if prompt else 0
    if prompt:
        keys, values = (
            np.concatenate([np.repeat(p, n, axis=0), own], axis=2)
            for p, own in zip(prompt, (keys, values), strict=True)
        )
    total = keys.shape[2]
    scores = scale * queries[:, :, rows] @ keys.swapaxes(-1, -2)
    hidden = np.arange(total) > rows[:, None] + (total - length)
    scores = np.where(hidden, -np.inf, scores)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    outputs = weights @ values
    outward = cotangent[:, :, rows]
    inward = outward @ values.swapaxes(-1, -2)
    slopes = scale * weights * (inward - (weights * inward).sum(axis=-1, keepdims=True))
    of_queries = np.zeros_like(queries)
    of_queries[:, :, rows] = slopes @ keys
    of_keys = (slopes.swapaxes(-1, -2) @ queries[:, :, rows]).sum(axis=1, keepdims=True)
    of_values = (weights.swapaxes(-1, -2) @ outward).sum(axis=1, keepdims=True)
    both = [of_keys, of_values]
    found = [outputs, of_queries, *(a[:, :, before:] for a in both)]
    return found + [a[:, :, :before].sum(axis=0, keepdims=True) for a in both] if prompt else found
