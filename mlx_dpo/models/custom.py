"""Functions whose backward pass is not the usual one; `trace.py` sees each call as one piece."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx

Observer = Callable[[Callable[..., Any], Callable[..., Any] | None, tuple[Any, ...], Any], Any]
"""Called instead, with the function, its vjp or None if it is computed again, its arguments, its owner."""

_observers: list[Observer] = []


@contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """Within it, `observer` answers all calls of the functions below."""
    _observers.append(observer)
    try:
        yield
    finally:
        _observers.pop()


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
    """As `mx.checkpoint`: only the inputs are kept, and `fun` is computed again in the backward pass.

    Args:
        owner: the module whose call this is, for a trace.
    """
    own = mx.checkpoint(fun)

    def call(*args: Any) -> Any:
        return _observers[-1](fun, None, args, owner) if _observers else own(*args)

    return call
