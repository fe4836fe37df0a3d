"""A sequence that makes its items when they are needed: a million rows do not become a million objects."""

import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


class Lazy(Sequence[T]):
    """`length` items; item i is `make(i)`, made anew each time. It equals a list of the same items."""

    def __init__(self, length: int, make: Callable[[int], T]):
        self._length, self._make = length, make

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self._make(i) for i in range(*place.indices(self._length))]
        return self._make(range(self._length)[operator.index(place)])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None

    def __repr__(self) -> str:
        return repr(list(self))
