"""The memory that a block has of earlier tokens: made, continued, and shared by several branches.

Every step is plain array arithmetic, so that gradients flow from a continuation back into the prompt.
"""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import (
    ArraysCache,
    CacheList,
    ChunkedKVCache,
    ConcatenateKVCache,
    KVCache,
    RotatingKVCache,
    create_attention_mask,
    make_prompt_cache,
)

from ..upstream import check_caches


class Keys(ConcatenateKVCache):
    """Keys and values of attention: of a prompt, shared by several branches, and of the branches themselves.

    Batch row i continues prompt i // (N / G). `prompt` has keys and values (G, heads, P, D), or is None;
    `keys` and `values` of the branches are (N, heads, L, D).
    """

    def __init__(self, window: int | None = None, prompt: tuple[mx.array, mx.array] | None = None):
        super().__init__()
        self.window = window
        self.prompt = prompt
        self.offset = prompt[0].shape[-2] if prompt else 0
        self.start_position = 0
        self.fetched: tuple[mx.array, mx.array] | None = None

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Add keys and values of the branches; return `keys_and_values`."""
        fetched = super().update_and_fetch(keys, values)
        if self.prompt:
            self.offset += self.prompt[0].shape[-2]
        return fetched

    def keys_and_values(self) -> tuple[mx.array, mx.array]:
        """Keys and values of prompt and branches; not evaluated if `kernels.attention` joins them itself."""
        self.fetched = after_prompt((self.keys, self.values), self.prompt or ())
        return self.fetched

    def has_fetched(self, keys: mx.array, values: mx.array) -> bool:
        """Whether these are the arrays that were fetched last."""
        return bool(self.fetched) and keys is self.fetched[0] and values is self.fetched[1]

    def maybe_trim_front(self) -> None:
        """A method of ChunkedKVCache; it drops nothing: the model's mask hides tokens of earlier chunks."""

    def make_mask(self, n: int, window_size: int | None = None, return_array: bool = False) -> Any:
        """As in mlx_lm's caches: "causal", None for one token, or (N, offset + N) for a sliding window."""
        window = window_size or self.window
        if window and self.offset + n <= window:
            window = None
        return create_attention_mask(n, self.offset, return_array, window)

    def arrays(self) -> list[mx.array | None]:
        """All arrays through which gradients may flow."""
        return [*(self.prompt or (None, None)), self.keys, self.values]

    def take(self, arrays: list[mx.array | None]) -> "Keys":
        """Hold these arrays instead, in the order of `arrays`."""
        self.prompt = tuple(arrays[:2]) if arrays[0] is not None else None
        self.keys, self.values = arrays[2:]
        self.offset = sum(a.shape[-2] for a in arrays[::2] if a is not None)
        return self

    def rebuilt(self, arrays: list[mx.array | None]) -> "Keys":
        """A new memory of the same kind that holds these arrays."""
        return Keys(self.window).take(arrays)

    def forked(self, branches: int) -> "Keys":
        """The memory for any number of continuations of every row; nothing is copied."""
        return Keys(self.window, None if self.keys is None else (self.keys, self.values))


def after_prompt(own: Sequence[mx.array], prompt: Sequence[mx.array]) -> tuple[mx.array, ...]:
    """Keys and values (N, heads, L, D), each after its prompt's (G, heads, P, D): (N, heads, P + L, D)."""
    if not prompt:
        return tuple(own)
    return tuple(map(_after, own, prompt))


def _after(own: mx.array, prompt: mx.array) -> mx.array:
    g, heads, length, width = prompt.shape
    own = own.reshape(g, len(own) // g, *own.shape[1:])
    before = mx.broadcast_to(prompt[:, None], (*own.shape[:2], heads, length, width))
    return mx.concatenate([before, own], axis=-2).flatten(0, 1)


class Arrays(ArraysCache):
    """State of a recurrent block: convolution tail, SSM or delta-rule state, each (N, ...)."""

    def arrays(self) -> list[mx.array | None]:
        """All arrays through which gradients may flow, as a new list: every branch writes into its own."""
        return list(self.cache)

    def take(self, arrays: list[mx.array | None]) -> "Arrays":
        """Hold these arrays instead."""
        self.cache = list(arrays)
        return self

    def rebuilt(self, arrays: list[mx.array | None]) -> "Arrays":
        """A new memory of the same kind that holds these arrays."""
        return Arrays(len(arrays)).take(arrays)

    def forked(self, branches: int) -> "Arrays":
        """The memory for `branches` continuations of every row, side by side."""
        return self.rebuilt([a if a is None else mx.repeat(a, branches, axis=0) for a in self.cache])


class Several(CacheList):
    """Blocks with more than one memory, such as attention beside a Mamba layer."""

    def arrays(self) -> list[mx.array | None]:
        """The arrays of all its memories, one after another."""
        return [a for c in self.caches for a in c.arrays()]

    def take(self, arrays: list[mx.array | None]) -> "Several":
        """Hold these arrays instead, in the order of `arrays`."""
        start = 0
        for c in self.caches:
            count = len(c.arrays())
            c.take(arrays[start : start + count])
            start += count
        return self

    def rebuilt(self, arrays: list[mx.array | None]) -> "Several":
        """New memories of the same kinds that hold these arrays."""
        return Several(*(c.rebuilt(c.arrays()) for c in self.caches)).take(arrays)

    def forked(self, branches: int) -> "Several":
        """Each memory forked."""
        return Several(*(c.forked(branches) for c in self.caches))


Memory = Keys | Arrays | Several
"""The memory of one block."""


def empty_state(model: nn.Module) -> list[Memory]:
    """One empty memory for each cache of the model, in the model's order.

    Raises:
        TypeError: a kind of cache that is not known to be exact here.
    """
    check_caches()
    return [_like(c) for c in make_prompt_cache(model)]


def forked(state: list[Memory], branches: int) -> list[Memory]:
    """Memories for `branches` continuations of every row; rows of the same prompt are side by side."""
    return [memory.forked(branches) for memory in state]


def _like(c: Any) -> Memory:
    if type(c) in (KVCache, ChunkedKVCache):
        return Keys()
    if type(c) is RotatingKVCache and not c.keep:
        return Keys(window=c.max_size)
    if type(c) is ArraysCache:
        return Arrays(len(c.cache))
    if type(c) is CacheList:
        return Several(*(_like(part) for part in c.caches))
    raise TypeError(f"it keeps its state in a {type(c).__name__}")
