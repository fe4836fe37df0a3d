"""Attention, Mamba-2 scan and gated units that give the same values with less memory and work in training.

mlx_lm's models call such functions by name; `lean()` replaces them with ours during a trace.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache, partial, reduce
from typing import Any

import mlx.core as mx
import numpy as np

from ..upstream import compute_dt, replaceable, replaced_in_models
from .custom_gradients import checkpoint, custom_function
from .mlx_attention import Call, fused_attention, note, takes_kernel
from .prompt_cache import Keys, after_prompt

_BLOCK = 128
"""Approximate number of queries in a block. A block skips the keys after its last query: half of the work."""
_SCAN = 64
"""Tokens in a block of the Mamba-2 scan. mlx_lm's blocks of 256 need four times as much temporary memory."""


_differentiated: list[bool] = []


@contextmanager
def lean(gradient: bool = True) -> Iterator[None]:
    """In this context mlx_lm's models call the functions below.

    Args:
        gradient: whether the result will be differentiated; if not, nothing is kept for the backward pass.
            The outermost `lean` decides.
    """
    if _differentiated:
        yield
        return
    with replaced_in_models(_OURS):
        _differentiated.append(gradient)
        try:
            yield
        finally:
            _differentiated.pop()


def as_now() -> Callable[[], AbstractContextManager[None]]:
    """A context that later restores the functions that models call now."""
    return partial(lean, *_differentiated) if _differentiated else nullcontext


def attention(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    cache: Any,
    scale: float,
    mask: Any,
    sinks: mx.array | None = None,
) -> mx.array:
    """Softmax attention like mlx_lm's `scaled_dot_product_attention`, without full causal masks.

    Causal attention is computed in blocks, or by MLX if `takes_kernel` says so.

    Args:
        queries: (N, heads, L, D).
        keys, values: (N, key heads, T, D), as the cache gave them.
        cache: with a `Keys`, the keys of a prompt are stored once for all its branches.
    """
    prompt, own = None, (keys, values)
    if isinstance(cache, Keys) and cache.has_fetched(keys, values):
        prompt, own = cache.prompt, (cache.keys, cache.values)
    if not (isinstance(mask, str) and mask == "causal") or sinks is not None:
        return mx.fast.scaled_dot_product_attention(
            queries, keys, values, scale=scale, mask=mask, sinks=sinks
        )
    shared = prompt[0].shape[::2] if prompt else (len(queries), 0)
    note(Call(queries.shape, keys.shape, values.shape, *shared, queries.dtype, scale))
    gradient = all(_differentiated)
    if takes_kernel(queries, keys, values, gradient=gradient):
        return fused_attention(queries, keys, values, scale, gradient=gradient)
    keys, values = own
    heads = queries.shape[1]
    groups = keys.shape[1]
    queries = (queries * scale).reshape(queries.shape[0], groups, heads // groups, *queries.shape[2:])
    attend = _attend if gradient else _attended
    return attend(queries, keys, values, *(prompt or ()))[0].flatten(1, 2)


def _attended(queries: mx.array, keys: mx.array, values: mx.array, *prompt: mx.array) -> tuple[mx.array, ...]:
    """Scaled queries (N, K, R, L, D) to outputs (N, K, R, L, E) and the softmax weights of every block.

    Keys and values are (N, K, T, D) and (N, K, T, E); those of the prompt, which come first, are (G, K, P, D)
    and (G, K, P, E).
    """
    keys, values = after_prompt((keys, values), prompt)
    outputs, weights = [], []
    for part, end in _blocks(queries, keys):
        block = queries[:, :, :, part]
        if outputs:  # one block after another, as in the backward pass
            block = mx.depends([block], outputs[-1:])[0]
        scores = _product(block, keys[:, :, :end].swapaxes(-1, -2))
        count = block.shape[3]
        hidden = mx.pad(_causal(count, scores.dtype), [(0, 0), (end - count, 0)])
        weights.append(mx.softmax(scores + hidden, axis=-1, precise=True))
        outputs.append(_product(weights[-1], values[:, :, :end]))
    return _joined(outputs, axis=3), *weights


_attend = custom_function(_attended)
"""Keeps only the softmax weights for the backward pass, each once."""


@_attend.vjp
def _attend_vjp(primals, cotangents, outputs):
    queries, *own = primals[:3]
    prompt = primals[3:]
    (output, *weights), cotangent = outputs, cotangents[0]
    keys, values = after_prompt(mx.depends(own, [cotangent]), prompt)
    # sum over keys of weight · d weight, computed from the output (Dao et al. 2022, arXiv:2205.14135, B.4)
    through = (cotangent * output).astype(mx.float32).sum(axis=-1, keepdims=True)
    query_slopes: list[mx.array] = []
    slopes: list[mx.array | None] = [None, None]
    for (part, end), weight in zip(_blocks(queries, keys), weights, strict=True):
        block, outward = queries[:, :, :, part], cotangent[:, :, :, part]
        if query_slopes:  # one block after another, otherwise MLX keeps the scores of all blocks
            outward = mx.depends([outward], [query_slopes[-1], *slopes])[0]
        inward = _product(outward, values[:, :, :end].swapaxes(-1, -2))
        inward = (weight * (inward - through[:, :, :, part])).astype(weight.dtype)
        query_slopes.append(_product(inward, keys[:, :, :end]))
        slopes = [
            _summed(slope, left, right)
            for slope, left, right in zip(slopes, (inward, weight), (block, outward), strict=True)
        ]
    found = [_joined(query_slopes, axis=3), *(slope[:, :, -own[0].shape[2] :] for slope in slopes)]
    for slope, primal in zip(slopes, prompt, strict=False):
        branches = slope.reshape(len(primal), -1, *slope.shape[1:])[:, :, :, : primal.shape[2]]
        found.append(reduce(mx.add, [branches[:, i] for i in range(branches.shape[1])]))
    return tuple(slope.astype(primal.dtype) for slope, primal in zip(found, primals, strict=True))


def _blocks(queries: mx.array, keys: mx.array) -> Iterator[tuple[slice, int]]:
    """Blocks of queries, each with the number of keys that it sees: up to the key of its last query."""
    length = queries.shape[3]
    before = keys.shape[2] - length
    size = -(-length // max(1, round(length / _BLOCK)))
    for start in range(0, length, size):
        stop = min(start + size, length)
        yield slice(start, stop), before + stop


def _joined(arrays: Sequence[mx.array], axis: int) -> mx.array:
    return arrays[0] if len(arrays) == 1 else mx.concatenate(arrays, axis=axis)


def _product(a: mx.array, b: mx.array) -> mx.array:
    """(N, K, R, L, X) @ (N, K, X, Y) -> (N, K, R, L, Y)."""
    return (a.flatten(2, 3) @ b).reshape(*a.shape[:4], -1)


def _summed(total: mx.array | None, a: mx.array, b: mx.array) -> mx.array:
    """(N, K, R, L, X), (N, K, R, L, Y) -> (N, K, X, Y): sum over R and L, plus a total with fewer X."""
    a, b = a.flatten(2, 3).swapaxes(-1, -2), b.flatten(2, 3)
    if total is None:
        return a @ b
    more = a.shape[2] - total.shape[2]
    return mx.addmm(mx.pad(total, [(0, 0), (0, 0), (0, more), (0, 0)]), a, b)


def _causal(count: int, dtype: mx.Dtype) -> mx.array:
    """(count, count): 0 where a token may attend to another, else -inf."""
    return _causal_square(-(-count // 64) * 64, dtype)[:count, :count]


@lru_cache(maxsize=8)
def _causal_square(size: int, dtype: mx.Dtype) -> mx.array:
    """A causal mask in one of a few sizes: the cached masks then do not depend on the lengths of the data."""
    return mx.array(np.where(np.tri(size), 0.0, -np.inf), dtype=dtype)


def scan(
    x: mx.array,
    A_log: mx.array,
    B: mx.array,
    C: mx.array,
    D: mx.array,
    dt: mx.array,
    dt_bias: mx.array,
    state: mx.array | None = None,
    time_step_limit: tuple[float, float] = (0.001, 100.0),
    mask: mx.array | None = None,
    lengths: mx.array | None = None,
    step: int = _SCAN,
) -> tuple[mx.array, mx.array]:
    """The Mamba-2 scan (Dao and Gu 2024, arXiv:2405.21060, section 6) in blocks of `step` tokens.

    Arguments and results are those of mlx_lm's `ssm_attn`. The backward pass recomputes the blocks, so that
    only inputs and block states are kept. Calls with masks or lengths go to mlx_lm's function.
    """
    if mask is not None or lengths is not None:
        return replaceable("ssm_attn")(
            x, A_log, B, C, D, dt, dt_bias, state, time_step_limit, mask, lengths, step
        )
    batch, length, heads, width = x.shape
    size = B.shape[-1]
    dt = compute_dt(dt, dt_bias, time_step_limit)
    rate = -mx.exp(A_log).astype(dt.dtype)
    if state is None:
        state = mx.zeros((batch, heads, width, size), dt.dtype)
    outputs = []
    for start in range(0, length, step):
        part = slice(start, start + step)
        y, state = _scan_block(x[:, part], dt[:, part], B[:, part], C[:, part], rate, state)
        outputs.append(y)
    return _joined(outputs, axis=1) + x * D.reshape(1, 1, heads, 1), state


@checkpoint
def _scan_block(
    x: mx.array, dt: mx.array, B: mx.array, C: mx.array, rate: mx.array, state: mx.array
) -> tuple[mx.array, mx.array]:
    """One block: x (N, L, H, W), dt (N, L, H), B and C (N, L, G, S), rate (H,), state (N, H, W, S)."""
    n, length, heads, width = x.shape
    groups, size = B.shape[2:]
    since = mx.cumsum((dt * rate).swapaxes(1, 2), axis=-1).reshape(n, groups, -1, length)
    inputs = (dt[..., None] * x).swapaxes(1, 2).reshape(n, groups, -1, length, width)
    B, C = B.swapaxes(1, 2)[:, :, None], C.swapaxes(1, 2)[:, :, None]
    before = state.reshape(n, groups, -1, width, size)
    between = mx.exp(since[..., :, None] - since[..., None, :] + _causal(length, since.dtype))
    y = ((C @ B.swapaxes(-1, -2)) * between) @ inputs
    y = y + mx.exp(since)[..., None] * (C @ before.swapaxes(-1, -2))
    left = (inputs * between[..., -1, :, None]).swapaxes(-1, -2) @ B
    left = left + mx.exp(since[..., -1])[..., None, None] * before
    y = y.reshape(n, heads, length, width).swapaxes(1, 2)
    return y.astype(x.dtype), left.reshape(state.shape)


def low_rank(self: Any, x: mx.array) -> mx.array:
    """mlx_lm's `LoRALinear`, with the scale on the narrow product and the sum fused into the second one."""
    y = self.linear(x)
    low = self.scale * (self.dropout(x) @ self.lora_a)
    if low.dtype == y.dtype:
        return mx.addmm(y, low, self.lora_b)
    return y + (low @ self.lora_b).astype(y.dtype)


def swiglu(gate: mx.array, x: mx.array) -> mx.array:
    """silu(gate) · x, keeping gate, x and one sigmoid for the backward pass."""
    return _swiglu(gate, x)[0]


@custom_function
def _swiglu(gate: mx.array, x: mx.array) -> tuple[mx.array, mx.array]:
    opened = mx.sigmoid(gate)
    return gate * opened * x, opened


@_swiglu.vjp
def _swiglu_vjp(primals, cotangents, outputs):
    (gate, x), opened, cotangent = primals, outputs[1], cotangents[0]
    unit = gate * opened
    found = cotangent * x * (opened + unit * (1 - opened)), cotangent * unit
    return tuple(slope.astype(primal.dtype) for slope, primal in zip(found, primals, strict=True))


_OURS = (
    ("__call__", low_rank),
    ("scaled_dot_product_attention", attention),
    ("ssm_attn", scan),
    ("swiglu", swiglu),
)
"""The functions with which `lean` replaces mlx_lm's functions of these names."""
