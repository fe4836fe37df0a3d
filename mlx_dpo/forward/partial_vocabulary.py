"""A head that gives logits for some vocabulary entries, so that no token needs all its logits at once."""

from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from .body_and_head import head

Words = slice | mx.array
"""Vocabulary entries: a slice of the vocabulary, or a list of ids (T,)."""


class Vocabulary:
    """A model's head, by its own code, with only some rows of the parameters that have a row per entry.

    `size`: number of entries. A head without such parameters, for example if the body returns logits,
    computes all its logits first.
    """

    def __init__(self, model: nn.Module, hidden: mx.array):
        self._model = model
        self.size = head(model, hidden[:1]).shape[-1]
        self._places = [
            (module, name)
            for module in outside_blocks(model)
            for name, value in module.items()
            if isinstance(value, mx.array) and value.shape[:1] == (self.size,)
        ]
        self._divisible = self._answers_for_some(hidden[:1])

    def stretch(self, words: int) -> int:
        """Number of entries to compute at a time: `words`, or all if fewer would not save work."""
        return words if self._divisible else self.size

    def logits(self, hidden: mx.array, words: Words) -> mx.array:
        """(T, H) to (T, words)."""
        if not self._divisible:
            return head(self._model, hidden)[:, words]
        with self._only(words):
            return head(self._model, hidden)

    def slope(self, hidden: mx.array, words: Words, weights: mx.array) -> mx.array:
        """Gradient in `hidden` (T, H) of the sum of weights · logits, weights (T, words)."""
        return mx.vjp(lambda h: self.logits(h, words), [hidden], [weights])[1][0]

    def _answers_for_some(self, hidden: mx.array) -> bool:
        try:
            with self._only(slice(0, 2)):
                return head(self._model, hidden).shape[-1] == 2
        except ValueError:
            return False

    @contextmanager
    def _only(self, words: Words) -> Iterator[None]:
        whole = [(module, name, module[name]) for module, name in self._places]
        for module, name, value in whole:
            module[name] = value[words]
        try:
            yield
        finally:
            for module, name, value in whole:
                module[name] = value


def outside_blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The model and all its modules that are not in one of its blocks."""
    blocks = {id(layer) for layer in model.layers}

    def walk(module: nn.Module) -> Iterator[nn.Module]:
        yield module
        for _, child in tree_flatten(module.children(), is_leaf=lambda c: isinstance(c, nn.Module)):
            if isinstance(child, nn.Module) and id(child) not in blocks:
                yield from walk(child)

    return walk(model)
