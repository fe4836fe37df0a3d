"""Blocks that keep only their input for the backward pass and recompute the rest.

planning/layout_choice.py decides whether a run with gradient_checkpointing=auto uses them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map

from .custom_gradients import checkpoint, is_float
from .kernels import as_now
from .prompt_cache import Arrays, Keys, Several

_CARRIED = Keys | Arrays | Several | mx.array | str | int | float
_suspended: list[bool] = []


@contextmanager
def suspended() -> Iterator[None]:
    """In this context checkpointed blocks run without checkpointing."""
    _suspended.append(True)
    try:
        yield
    finally:
        _suspended.pop()


def checkpoint_layers(model: nn.Module) -> None:
    """Checkpoint every block of this model by changing the class of these blocks only.

    A block's memory (keys and values, recurrent state) goes in and comes out as arrays: a value that leaves a
    checkpointed block inside a changed object carries no gradient.
    """
    for layer in model.layers:
        layer.__class__ = _checkpointed(type(layer))


@contextmanager
def only_memory(layer: nn.Module) -> Iterator[None]:
    """In this context a checkpointed block computes only its memory, not its output."""
    object.__setattr__(layer, "_only_memory", True)
    try:
        yield
    finally:
        object.__delattr__(layer, "_only_memory")


@cache
def _checkpointed(kind: type) -> type:
    def call(self, *args, **kwargs):
        given = (args, kwargs)
        leaves = [leaf for _, leaf in tree_flatten(given)]
        # A value that a block leaves in another kind of object would carry no gradient out of a checkpoint.
        if _suspended or not all(leaf is None or isinstance(leaf, _CARRIED) for leaf in leaves):
            return kind.__call__(self, *args, **kwargs)
        memories = [leaf for leaf in leaves if isinstance(leaf, Keys | Arrays | Several)]
        only = getattr(self, "_only_memory", False)
        # The backward pass runs after the caller's `lean` has ended.
        kernels = as_now()

        def run(parameters, floats, state):
            self.update(parameters)
            own = [memory.rebuilt(arrays) for memory, arrays in zip(memories, state, strict=True)]
            args, kwargs = _filled(given, iter(floats), iter(own))
            with kernels():
                output = kind.__call__(self, *args, **kwargs)
            aside = only and isinstance(output, mx.array)
            return _apart((floats[0] if aside else output, [memory.arrays() for memory in own]))

        floats = [leaf for leaf in leaves if is_float(leaf)]
        state = [memory.arrays() for memory in memories]
        output, left = checkpoint(run, owner=self)(self.trainable_parameters(), floats, state)
        for memory, arrays in zip(memories, left, strict=True):
            memory.take(arrays)
        return output

    return type(kind.__name__, (kind,), {"__call__": call})


def _apart(outputs: Any) -> Any:
    """Copy repeated arrays: of two outputs that are one array, `mx.checkpoint` keeps only one gradient."""
    seen = set()

    def own(leaf):
        if not isinstance(leaf, mx.array):
            return leaf
        if id(leaf) in seen:
            leaf = mx.contiguous(leaf)
        seen.add(id(leaf))
        return leaf

    return tree_map(own, outputs)


def _filled(given: Any, floats: Iterator[mx.array], own: Iterator[Any]) -> Any:
    """The same arguments with other floating-point arrays and memories; integers and masks stay."""

    def fill(leaf):
        if is_float(leaf):
            return next(floats)
        return next(own) if isinstance(leaf, Keys | Arrays | Several) else leaf

    return tree_map(fill, given)
