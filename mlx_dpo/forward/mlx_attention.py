"""MLX's own attention kernel: where it exists, when it is used, and how much memory it needs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, NamedTuple

import mlx.core as mx

from .completion_logps import planned_device
from .custom_gradients import custom_function, is_traced

FUSED, BLOCKS = "fused", "blocks"
"""MLX's `scaled_dot_product_attention`; the blocks of queries in `kernels.attention`."""
_settled: list[str] = []


@contextmanager
def attending(how: str) -> Iterator[None]:
    """In this context every causal attention is FUSED or in BLOCKS; with `auto`, `takes_kernel` decides."""
    _settled.append(how)
    try:
        yield
    finally:
        _settled.pop()


class Call(NamedTuple):
    """One call of causal attention: its shapes and type.

    queries (N, heads, L, D), keys and values (N, key heads, T, D). The N // `prompts` answers to a prompt
    share `prompt` of the T keys.
    """

    queries: tuple[int, ...]
    keys: tuple[int, ...]
    values: tuple[int, ...]
    prompts: int
    prompt: int
    dtype: mx.Dtype
    scale: float


_noted: list[list[Call]] = []


@contextmanager
def noted_calls() -> Iterator[list[Call]]:
    """In this context every call of causal attention is added to the list."""
    calls: list[Call] = []
    _noted.append(calls)
    try:
        yield calls
    finally:
        _noted.pop()


def note(call: Call) -> None:
    """Add the call to the lists of all `noted_calls`."""
    for calls in _noted:
        calls.append(call)


def scoring_attention() -> str:
    """FUSED or BLOCKS: how causal attention is computed on this device without a gradient."""
    if _settled and _settled[-1] in (FUSED, BLOCKS):
        return _settled[-1]
    return FUSED if planned_device() == mx.gpu else BLOCKS


def takes_kernel(queries: mx.array, keys: mx.array, values: mx.array, *, gradient: bool) -> bool:
    """Whether MLX computes this causal attention.

    `attending` decides. If it leaves the choice open, MLX is used if nothing is differentiated and it has a
    kernel for these shapes. Without a kernel (for example on a CPU) MLX forms the scores of all queries at
    once.
    """
    if _settled and _settled[-1] in (FUSED, BLOCKS):
        return _settled[-1] == FUSED
    if gradient or planned_device() != mx.gpu:
        return False
    if is_traced():
        return kernel(backend(), queries.shape, keys.shape, values.shape, queries.dtype) is not None
    try:
        mx.fast.scaled_dot_product_attention(
            queries, keys, values, scale=1.0, mask="causal", force_fused=True
        )
    except (TypeError, ValueError):  # this MLX has no force_fused, or no kernel for these shapes
        return False
    return True


def fused_attention(
    queries: mx.array, keys: mx.array, values: mx.array, scale: float, *, gradient: bool
) -> mx.array:
    """Causal softmax attention by MLX; the last query attends to the last key.

    In a trace it is replaced by operations that need the same memory.
    """
    given = queries, keys, values
    if not is_traced():
        return mx.fast.scaled_dot_product_attention(*given, scale=scale, mask="causal")
    found = kernel(backend(), *(a.shape for a in given), queries.dtype, gradient=gradient)
    if found is None:  # without a kernel, MLX uses the same operations as on its CPU
        return mx.fast.scaled_dot_product_attention(*given, scale=scale, mask="causal", stream=mx.cpu)
    return (_tiled if found.tile else _untiled)(*given)[0]


# The kernels, read from MLX's sources and the binaries of mlx-metal 0.32.4; they were never run here.


class Kernel(NamedTuple):
    """`tile`: queries and keys (of all heads) whose scores the backward pass keeps at a time; 0: none."""

    sizes: Sequence[int]
    dtypes: Sequence[mx.Dtype]
    tile: int = 0
    shortest: int = 1
    multiple: int = 1
    since: tuple[int, ...] = (0,)


_HALF, _FLOATS = (mx.float16, mx.bfloat16), (mx.float16, mx.bfloat16, mx.float32)
_EIGHTS = range(8, 129, 8)
TILE = 1024
_FORWARD = {
    "metal": [
        Kernel((64, 72, 80, 96, 128, 192, 256), _FLOATS, shortest=9),
        Kernel((64, 96, 128, 192, 256), _FLOATS),
    ],
    "cuda": [Kernel(_EIGHTS, _HALF, shortest=2)],
}
_BACKWARD = {
    "metal": [Kernel((64, 72, 80, 96, 128, 192, 256, 512), _FLOATS, TILE, 9, since=(0, 32, 4))],
    "cuda": [Kernel(_EIGHTS, _HALF, multiple=128)],
}
"""Kernels by backend. On Metal before 0.32.4, and for other lengths on CUDA, MLX keeps the whole softmax."""


def kernel(
    backend: str,
    queries: Sequence[int],
    keys: Sequence[int],
    values: Sequence[int],
    dtype: mx.Dtype,
    *,
    gradient: bool = False,
    mlx: str | None = None,
) -> Kernel | None:
    """MLX's kernel for causal attention of these shapes; None if MLX forms all scores.

    Args:
        backend: metal, cuda or cpu.
        gradient: whether it is for the backward pass.
        mlx: version of MLX; by default the installed version.
    """
    length, size = queries[2], queries[3]
    installed = _numbers(mlx or version("mlx"))
    for found in (_BACKWARD if gradient else _FORWARD).get(backend, ()):
        if (
            size == values[3]
            and size in found.sizes
            and dtype in found.dtypes
            and found.shortest <= length <= keys[2]
            and length % found.multiple == 0
            and installed >= found.since
        ):
            return found
    return None


def backend() -> str:
    """metal, cuda or cpu: the backend of the planned device, else of this machine."""
    if planned_device() != mx.gpu:
        return "cpu"
    return "cuda" if mx.cuda.is_available() else "metal"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


# Stand-ins for the kernels in a trace: other values, but the same arrays in memory.


def _forward(queries: mx.array, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
    """The output, and one log-sum-exp per query."""
    output = queries + (keys[:, :1, :1] + values[:, :1, :1])
    return output, output[..., 0].astype(mx.float32)


_untiled = custom_function(_forward)


@_untiled.vjp
def _untiled_vjp(primals, cotangents, outputs):
    through = (cotangents[0] * outputs[0]).sum(axis=-1, keepdims=True) + outputs[1][..., None]
    return _slopes(primals, through)


def _tiled_forward(queries: mx.array, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
    return _forward(queries, keys, values)


_tiled = custom_function(_tiled_forward)


@_tiled.vjp
def _tiled_vjp(primals, cotangents, outputs):
    """Scores of one tile and their gradients; the keys' gradients of every head, before they are summed."""
    queries, keys, values = primals
    (output, logsumexp), cotangent = outputs, cotangents[0]
    rows, columns = min(queries.shape[2], TILE), min(keys.shape[2], TILE)
    scores = queries[:, :, :rows, :1] * keys[:, :1, :columns, 0][:, :, None]
    inward = cotangent[:, :, :rows, :1] * values[:, :1, :columns, 0][:, :, None]
    parts = queries[:, :, :1] * keys[:, :1, :columns], queries[:, :, :1] * values[:, :1, :columns]
    tile = mx.depends([scores * inward], list(parts))[0].sum(axis=(2, 3), keepdims=True)
    through = (cotangent * output).sum(axis=-1, keepdims=True) + logsumexp[..., None]
    through = through + tile + sum(part[:, :, :1, :1] for part in parts)
    return _slopes(primals, through)


def _slopes(primals: Any, through: mx.array) -> tuple[mx.array, ...]:
    """New arrays of the primals' shapes, computed after `through` (N, heads, L, 1)."""
    after = through.sum(axis=(1, 2), keepdims=True)
    return tuple(
        mx.concatenate([a[:, :, :1] + after.astype(a.dtype), a[:, :, 1:]], axis=2)
        if a.shape[2] > 1
        else a + after
        for a in primals
    )
