"""Functions with their own backward pass; `operations.py` sees each call as one operation."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map

Observer = Callable[[Callable[..., Any], Callable[..., Any] | None, tuple[Any, ...], Any], Any]
"""Called instead of a function, with the function, its vjp (None: recomputed), its arguments, its owner."""

_observers: list[Observer] = []


@contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """In this context `observer` handles all calls of the functions below."""
    _observers.append(observer)
    try:
        yield
    finally:
        _observers.pop()


def is_traced() -> bool:
    """Whether calls are observed: then nothing that is built now will be computed."""
    return bool(_observers)


class custom_function:
    """As `mx.custom_function`, with `vjp(primals, cotangents, outputs)`."""

    def __init__(self, fun: Callable[..., Any]):
        self._fun, self._own = fun, mx.custom_function(fun)
        self._vjp: Callable[..., Any] | None = None

    def vjp(self, vjp: Callable[..., Any]) -> Callable[..., Any]:
        """Take `vjp` as the backward pass."""
        self._vjp = vjp
        self._own.vjp(vjp)
        return vjp

    def __call__(self, *args: Any) -> Any:
        return _observers[-1](self._fun, self._vjp, args, None) if _observers else self._own(*args)


def checkpoint(fun: Callable[..., Any], owner: Any = None) -> Callable[..., Any]:
    """As `mx.checkpoint`: only the inputs are kept, and the backward pass recomputes `fun`.

    Args:
        owner: the module that is called. The gradients of its parameters (the first argument) are then
            computed before the gradients of the other arguments are passed on. Otherwise MLX may compute them
            at the end, and keep everything that every block recomputed until then.
    """
    own = mx.checkpoint(fun) if owner is None else _checkpoint_in_order(fun)

    def call(*args: Any) -> Any:
        return _observers[-1](fun, None, args, owner) if _observers else own(*args)

    return call


def _checkpoint_in_order(fun: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        results: list[Any] = []

        @mx.custom_function
        def own(*given):
            results[:] = [fun(*filled(args, given))]
            return tuple(arrays_of(results))

        @own.vjp
        def own_vjp(primals, cotangents, outputs):
            def again(*given):
                return arrays_of(fun(*filled(args, given)))

            primals = mx.depends(arrays_of(primals), arrays_of(cotangents))
            return parameters_first(args, mx.vjp(again, primals, arrays_of(cotangents))[1])

        outputs = own(*arrays_of(args))
        return filled(results, outputs)[0]

    return call


def parameters_first(args: tuple[Any, ...], gradients: Sequence[mx.array]) -> list[mx.array]:
    """The gradients of all arrays in `args`; those of the first argument are computed before the others."""
    count = len(arrays_of(args[0]))
    own, others = gradients[:count], gradients[count:]
    return [*own, *(mx.depends(others, own) if own and others else others)]


def arrays_of(tree: Any) -> list[mx.array]:
    """All arrays of a tree, in the order of `tree_map`."""
    found: list[mx.array] = []
    tree_map(lambda a: found.append(a) if isinstance(a, mx.array) else None, tree)
    return found


def filled(tree: Any, arrays: Iterable[mx.array]) -> Any:
    """A tree of the same structure with other arrays."""
    others = iter(arrays)
    return tree_map(lambda a: next(others) if isinstance(a, mx.array) else a, tree)


def is_float(leaf: Any) -> bool:
    """Whether gradients may flow through it."""
    return isinstance(leaf, mx.array) and mx.issubdtype(leaf.dtype, mx.floating)
