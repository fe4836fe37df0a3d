"""Read mlx's records of a trace: operations over numbered arrays, and the calls that left marks."""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from math import prod
from typing import Any, NamedTuple

import mlx.core as mx

FIRST_MARK = 1_000_003
"""Marks are products with whole numbers from this one on: exact in float32, and unused by models."""
_TRANSPARENT = {"Broadcast", "ExpandDims", "Squeeze", "Reshape", "Flatten", "Unflatten", "AsType", "Copy"}


class Array(NamedTuple):
    """Shape, and bytes of one element."""

    shape: tuple[int, ...]
    itemsize: int

    @property
    def nbytes(self) -> int:
        """Bytes of the array in memory of its own."""
        return prod(self.shape) * self.itemsize


class Call(NamedTuple):
    """One call of a function with a custom backward pass; equal calls have the same `key`."""

    fun: Callable[..., Any]
    vjp: Callable[..., Any] | None
    arguments: Any
    primals: list[mx.array]
    outputs: list[Array]
    dtypes: list[mx.Dtype]
    block: int | None
    recomputed: bool
    kernels: Callable[[], AbstractContextManager[None]]
    key: Any


class Marked(NamedTuple):
    """A call in a trace: its number, whether it is the backward pass, slot -> local array, both ways."""

    call: int
    backward: bool
    inputs: dict[int, int]
    outputs: dict[int, int]


class Step(NamedTuple):
    """One operation of a part: arrays by their local number."""

    name: str
    inputs: list[int]
    outputs: list[int]


class Part(NamedTuple):
    """A traced function: steps over local arrays, inputs and results, and whether a result needs each step.

    `outside`: arrays made by calls outside the function, as call and slot.
    """

    arrays: list[Array]
    steps: list[Any]
    given: list[int]
    results: list[int]
    forward: list[bool]
    outside: dict[int, tuple[int, int]]


def described(array: mx.array) -> Array:
    """Shape and element size."""
    return Array(tuple(array.shape), array.dtype.size)


def ancestors(part: Part, results: Sequence[int]) -> list[bool]:
    """For every step, whether any of `results` needs it."""
    before, used = _before(part.steps), [False] * len(part.steps)
    wanted = set(results)
    stack = [n for n, step in enumerate(part.steps) if not wanted.isdisjoint(_outputs(step))]
    while stack:
        number = stack.pop()
        if not used[number]:
            used[number] = True
            stack.extend(before[number])
    return used


def in_order(steps: Sequence[Any]) -> list[Any]:
    """The steps in an order in which each comes after those that it needs."""
    before, done, ordered = _before(steps), [False] * len(steps), []
    for number in range(len(steps)):
        stack = [number]
        while stack:
            missing = [n for n in before[stack[-1]] if not done[n]]
            if missing:
                stack.extend(missing)
                continue
            last = stack.pop()
            if not done[last]:
                done[last] = True
                ordered.append(steps[last])
    return ordered


def _before(steps: Sequence[Any]) -> list[list[int]]:
    """For every step, the numbers of the steps that it needs.

    A backward pass always needs its forward pass, even if its cotangents do not come from there, as with a
    sum or a loss that is linear in the scores.
    """
    makers = {local: number for number, step in enumerate(steps) for local in _outputs(step)}
    forward = {s.call: n for n, s in enumerate(steps) if isinstance(s, Marked) and not s.backward}
    found = []
    for step in steps:
        marked = isinstance(step, Marked)
        inputs = step.inputs.values() if marked else step.inputs
        own = [makers[i] for i in inputs if i in makers]
        found.append([*own, forward[step.call]] if marked and step.backward else own)
    return found


def _outputs(step: Any) -> Collection[int]:
    return step.outputs.values() if isinstance(step, Marked) else step.outputs


class Reader:
    """Turns mlx's records of a trace into a part, and marks into calls."""

    def __init__(self, marks: dict[int, tuple[int, str, int]], calls: Sequence[Call], first: int):
        self._marks, self._calls, self._first = marks, calls, first
        self._names: dict[str, int] = {}
        self._arrays: list[Array] = []
        self._steps: list[Any] = []
        self._mark_of: dict[int, tuple[int, str, int]] = {}
        self._summed: dict[int, int] = {}  # sum -> what was summed
        self._terms: dict[int, tuple[int, str, dict[int, int]]] = {}
        self._called: dict[int, Marked] = {}
        self._alias: dict[int, int] = {}
        self._growing: dict[int, tuple[int, ...]] = {}
        self._outside: dict[int, tuple[int, int]] = {}

    def read(self, records: Sequence[dict[str, Any]], count: int) -> Part:
        """The part with the first `count` results; steps that none of these needs are left out."""
        given, results = [], []
        for record in records:
            kind = record["type"]
            if kind == "inputs":
                given = [self._local(a) for a in record["inputs"]]
            elif kind == "outputs":
                results = [self._local(a) for a in record["outputs"]]
            elif kind == "constants":
                for name, value in record["constants"]:
                    self._constant(self._local((name, value.shape, value.dtype)), value)
            elif kind == "primitive":
                self._operation(record)
        results = [self._alias.get(i, i) for i in results[:count]]
        part = Part(self._arrays, in_order(self._steps), given, results, [], self._outside)
        used = ancestors(part, results)
        steps = [step for step, needed in zip(part.steps, used, strict=True) if needed]
        return part._replace(steps=steps, forward=[True] * len(steps))

    def _local(self, described: tuple[str, Any, mx.Dtype]) -> int:
        name, shape, dtype = described
        if name not in self._names:
            self._names[name] = len(self._arrays)
            self._arrays.append(Array(tuple(shape), dtype.size))
        return self._names[name]

    def _constant(self, local: int, value: mx.array) -> None:
        if value.size == 1 and value.dtype == mx.float32:
            number = value.item()
            if number >= FIRST_MARK and number.is_integer() and int(number) in self._marks:
                self._mark_of[local] = self._marks[int(number)]

    def _operation(self, record: dict[str, Any]) -> None:
        name, known = record["name"], self._names
        inputs = [known[a[0]] if a[0] in known else self._local(a) for a in record["inputs"]]
        outputs = [self._local(a) for a in record["outputs"]]
        out = outputs[0]
        if name == "Multiply" and any(i in self._mark_of for i in inputs):
            first, second = inputs
            mark, other = (second, first) if second in self._mark_of else (first, second)
            self._marked(self._mark_of[mark], other, out)
            return
        if name == "Add" and inputs[0] in self._terms and inputs[1] in self._terms:
            (call, kind, some), (_, _, more) = self._terms[inputs[0]], self._terms[inputs[1]]
            self._terms[out] = (call, kind, some | more)
            return
        if name in _TRANSPARENT and len(inputs) == 1:
            if inputs[0] in self._growing:  # a marked scalar on its way to the shape of what the call gives
                self._alias[out] = self._alias[inputs[0]]
                shape = self._growing[inputs[0]]
                if self._arrays[out].shape != shape:
                    self._growing[out] = shape
                return
            if inputs[0] in self._mark_of:
                self._mark_of[out] = self._mark_of[inputs[0]]
                return
            if inputs[0] in self._summed:
                self._summed[out] = self._summed[inputs[0]]
        elif name == "Reduce":
            self._summed[out] = inputs[0]
        resolved = [self._alias.get(i, i) for i in inputs]
        self._steps.append(Step(name, resolved, outputs))

    def _marked(self, mark: tuple[int, str, int], other: int, out: int) -> None:
        """A product with a mark: the sum of an input, the call itself, or one of its outputs."""
        call, kind, slot = mark
        if kind == "call":
            _, side, terms = self._terms[other]
            outputs: dict[int, int] = {}
            self._called[out] = Marked(call, side == "out", terms, outputs)
            if call >= self._first:
                self._steps.append(self._called[out])
        elif other in self._called:
            step = self._called[other]
            local = len(self._arrays)
            self._arrays.append(Array((), 4))
            step.outputs[slot] = local
            called = self._calls[call]
            array = described(called.primals[slot]) if step.backward else called.outputs[slot]
            self._arrays[local] = array
            if array.shape:
                self._growing[out] = array.shape
            if call < self._first:
                self._outside[local] = (call, slot)
            self._alias[out] = local
        else:
            source = self._summed.get(other, other)
            self._terms[out] = (call, kind, {slot: self._alias.get(source, source)})
