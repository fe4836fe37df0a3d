"""A model in two parts, by its own code: the body gives hidden states, the head scores them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cache
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten


def find_body(model: nn.Module) -> nn.Module:
    """The innermost module that contains the model's blocks and can be called.

    Raises:
        TypeError: no such module.
    """
    line = line_to(model, model.layers[0])
    body = next(filter(callable, line), None)
    if body is None:
        raise TypeError("its blocks belong to no module")
    return body


def line_to(module: nn.Module, layer: nn.Module) -> list[nn.Module]:
    """The modules from the one that lists `layer` up to `module`; empty if `layer` is not inside."""
    if any(own is layer for owned in module.values() if isinstance(owned, Sequence) for own in owned):
        return [module]
    inside = (line_to(child, layer) for child in module.values() if isinstance(child, nn.Module))
    line = next(filter(None, inside), [])
    return [*line, module] if line else []


def hidden_states(model: nn.Module, tokens: mx.array, state: list[Any] | None = None) -> mx.array:
    """The hidden states for the head: (N, T, H). The model's own call runs; its logits are never evaluated.

    Args:
        tokens: (N, T) integer ids.
        state: one cache per block (see `prompt_cache.py`); it is continued and changed in place.

    Raises:
        TypeError: the body returns something other than one array.
    """
    seen = []

    def record(call, *args, **kwargs):
        seen.append(call(*args, **kwargs))
        return seen[-1]

    body = find_body(model)
    if body is model:
        raise TypeError("its blocks and its head are one module")
    with _calling(body, record):
        model(tokens, cache=state)
    if len(seen) != 1 or not isinstance(seen[0], mx.array):
        raise TypeError("its body returns more than hidden states")
    return seen[0]


def head(model: nn.Module, hidden: mx.array) -> mx.array:
    """Logits (T, V) of hidden states (T, H), by the model's own code.

    The body returns `hidden` as if it had computed it, so that everything the model does after the body
    (tied weights, logit scaling, soft caps) is done here too.
    """
    row = hidden[None]
    with _calling(find_body(model), lambda call, *args, **kwargs: row):
        return model(mx.zeros(row.shape[:2], mx.int32)).squeeze(0)  # [0] would be a copy


@contextmanager
def body_first(model: nn.Module) -> Iterator[None]:
    """In this context the body is evaluated before the head, so that they never need memory together."""

    def evaluated(call, *args, **kwargs):
        output = call(*args, **kwargs)
        mx.eval([a for _, a in tree_flatten(output) if isinstance(a, mx.array)])
        return output

    body = find_body(model)
    with nullcontext() if body is model else _calling(body, evaluated):
        yield


@contextmanager
def float32_activations(model: nn.Module) -> Iterator[None]:
    """In this context embeddings give float32, so that all layers compute in it, whatever their dtype."""

    def widened(call, *args, **kwargs):
        return call(*args, **kwargs).astype(mx.float32)

    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, nn.Embedding | nn.QuantizedEmbedding):
                stack.enter_context(_calling(module, widened))
        yield


@contextmanager
def _calling(module: nn.Module, instead: Callable[..., Any]) -> Iterator[None]:
    """In this context calls of this module go to `instead(own call, *args, **kwargs)`; its class changes."""
    kind = type(module)
    module.__class__ = _standing_in(kind)
    object.__setattr__(module, "_instead", instead)
    try:
        yield
    finally:
        object.__delattr__(module, "_instead")
        module.__class__ = kind


@cache
def _standing_in(kind: type) -> type:
    def call(self, *args, **kwargs):
        return self._instead(lambda *a, **k: kind.__call__(self, *a, **k), *args, **kwargs)

    return type(kind.__name__, (kind,), {"__call__": call})
