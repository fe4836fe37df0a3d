"""Every operation of a computation with its shapes, without computing any: custom backward passes included.

mlx names the operations of a graph only where each is of its own kinds. A function with a backward pass of
its own (see `custom.py`) is none; in a trace its calls leave marks, which differentiation carries into the
backward pass, and what the calls do is put in place of the marks afterwards.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from math import prod
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

from .custom import arrays_of, filled, observed, parameters_first
from .kernels import is_lean, lean

_FIRST_MARK = 1_000_003
"""Marks are products with whole numbers from here on: exact in float32, and no model multiplies by them."""
_TRANSPARENT = {"Broadcast", "ExpandDims", "Squeeze", "Reshape", "Flatten", "Unflatten", "AsType", "Copy"}


class Array(NamedTuple):
    """Shape, and bytes of one element."""

    shape: tuple[int, ...]
    itemsize: int

    @property
    def nbytes(self) -> int:
        """Bytes of a copy of its own."""
        return prod(self.shape) * self.itemsize


class Operation(NamedTuple):
    """One operation: arrays by their number. `block` is the model's block it belongs to, if any."""

    name: str
    arguments: Sequence[Any]
    inputs: list[int]
    outputs: list[int]
    block: int | None


class Graph:
    """All operations of a computation; its results, and what it was given to use up."""

    def __init__(self) -> None:
        self.arrays: list[Array] = []
        self.operations: list[Operation] = []
        self.results: list[int] = []
        self.given: list[int] = []

    def array(self, array: Array) -> int:
        """A new array's number."""
        self.arrays.append(array)
        return len(self.arrays) - 1

    def operation(
        self, name: str, arguments: Sequence[Any], inputs: list[int], outputs: list[int], block: int | None
    ) -> None:
        """Add an operation."""
        self.operations.append(Operation(name, arguments, inputs, outputs, block))


def placeholders(tree: Any) -> Any:
    """Arrays of the same shapes and types that hold one element each."""
    return tree_map(_placeholder, tree)


def _placeholder(array: mx.array) -> mx.array:
    one = mx.broadcast_to(mx.zeros((), array.dtype), array.shape)
    mx.eval(one)
    return one


def trace(
    fun: Callable[..., Any],
    given: Sequence[mx.array] = (),
    *,
    blocks: Sequence[nn.Module] = (),
    recomputed: bool = False,
    forget: Callable[[], None] = lambda: None,
) -> Graph:
    """The graph of all arrays in what `fun(*given)` gives.

    Args:
        given: arrays that nothing else holds: their memory is free once they were used.
        blocks: modules whose operations are marked with their place in this list.
        recomputed: the blocks' forward pass runs again in the backward pass.
        forget: called after each part; has to remove what `fun` leaves behind in a model.
    """
    return _Tracer(blocks, recomputed, forget).graph(fun, given)


class _Call(NamedTuple):
    """One call of a function with a backward pass of its own."""

    fun: Callable[..., Any]
    vjp: Callable[..., Any] | None
    arguments: Any
    primals: list[mx.array]
    outputs: list[Array]
    dtypes: list[mx.Dtype]
    block: int | None
    recomputed: bool
    lean: bool


class _Marked(NamedTuple):
    """A call in a trace: its number, whether it is the backward pass, slot -> local array, both ways."""

    call: int
    backward: bool
    inputs: dict[int, int]
    outputs: dict[int, int]


class _Step(NamedTuple):
    name: str
    arguments: Sequence[Any]
    inputs: list[int]
    outputs: list[int]


class _Part(NamedTuple):
    """A traced function: steps over local arrays, what goes in and out, and if the results need each step.

    `outside`: arrays that calls outside of the function made, by call and slot.
    """

    arrays: list[Array]
    steps: list[Any]
    given: list[int]
    results: list[int]
    forward: list[bool]
    outside: dict[int, tuple[int, int]]


class _Tracer:
    def __init__(self, blocks: Sequence[nn.Module], recomputed: bool, forget: Callable[[], None]):
        self._blocks = {id(block): place for place, block in enumerate(blocks)}
        self._recomputed, self._forget = recomputed, forget
        self._calls: list[_Call] = []
        self._marks: dict[int, tuple[int, str, int]] = {}
        self._scalars: dict[int, mx.array] = {}
        self._next = _FIRST_MARK
        self._parts: dict[Any, _Part] = {}
        self._results: dict[Any, Any] = {}
        self._outside: dict[tuple[int, int], int] = {}
        self._awaited: set[tuple[int, int]] = set()

    def graph(self, fun: Callable[..., Any], given: Sequence[mx.array]) -> Graph:
        """All of it."""
        first = len(self._calls)
        part = self._trace(lambda arrays: arrays_of(fun(*arrays[1:])), [mx.zeros(()), *given], first)
        graph = Graph()
        known = _Places(graph, part)
        self._place(graph, part, known, lambda number: True, None, {})
        graph.results = [known[i] for i in part.results]
        graph.given = [known[i] for i in part.given[1:]]
        return graph

    # Marks

    def _observe(self, fun: Callable[..., Any], vjp: Callable[..., Any] | None, args: Any, owner: Any) -> Any:
        """Run by each call while a trace is made: marked arrays of the right shapes, not its results."""
        primals = arrays_of(args)
        block = self._blocks.get(id(owner)) if owner is not None else None
        key = self._key(fun, primals) if block is None else None
        results = self._results.get(key) if key else None
        if results is None:
            results = self._results[key] = fun(*args)
        arrays = arrays_of(results)
        number = len(self._calls)
        self._calls.append(
            _Call(
                fun,
                vjp,
                args,
                primals,
                [_described(a) for a in arrays],
                [a.dtype for a in arrays],
                block,
                block is None or self._recomputed,
                is_lean(),
            )
        )
        total = None
        for i, array in enumerate(primals):
            part = array.sum().astype(mx.float32) * self._mark(number, "in", i)
            total = part if total is None else total + part
        total = total * self._mark(number, "call", 0)
        marked = [
            mx.broadcast_to((total * self._mark(number, "out", j)).astype(a.dtype), a.shape)
            for j, a in enumerate(arrays)
        ]
        return filled(results, marked)

    def _mark(self, call: int, kind: str, slot: int) -> mx.array:
        self._marks[self._next] = (call, kind, slot)
        mark = mx.array(float(self._next))
        self._next += 1
        return mark

    @staticmethod
    def _key(fun: Callable[..., Any], arrays: Sequence[mx.array]) -> Any:
        """What makes two calls alike; None where the function may hold anything."""
        if fun.__closure__:
            return None
        return (fun, *((tuple(a.shape), a.dtype) for a in arrays))

    # One function

    def _trace(self, fun: Callable[..., Any], given: Sequence[mx.array], first: int) -> _Part:
        """`fun` over flat arrays. Calls before number `first` are another trace's and count as constants."""
        records: list[dict[str, Any]] = []
        try:
            with observed(self._observe):
                mx.export_function(records.append, lambda *arrays: fun(arrays), *given)
        finally:
            self._forget()
        return _Reader(self._marks, self._calls, first).read(records)

    def _part(self, call: _Call, wanted: tuple[int, ...]) -> _Part:
        """Forward and backward of a call: outputs, then gradients of all inputs, from inputs and cotangents.

        Args:
            wanted: the outputs that have a cotangent.
        """
        key = self._key(call.fun, call.primals) if call.block is None else None
        if key is not None and (key, wanted) in self._parts:
            return self._parts[key, wanted]
        count = len(call.primals)

        def both(arrays: Sequence[mx.array]) -> list[mx.array]:
            seen: list[mx.array] = []
            result: list[Any] = []

            def forward(*flat):
                result[:] = [call.fun(*filled(call.arguments, flat))]
                seen[:] = arrays_of(result)
                # Where nothing is computed again, nothing flows through results without a cotangent.
                return seen if call.recomputed else [seen[j] for j in wanted]

            given, again, slopes = list(arrays[:count]), list(arrays[count:first]), iter(arrays[first:])
            if not wanted:
                forward(*given)
                return seen
            if not call.recomputed:
                gradients = mx.vjp(forward, given, list(slopes))[1]
                return [*seen, *gradients]
            every = [
                next(slopes) if j in wanted else mx.zeros(a.shape, dtype)
                for j, (a, dtype) in enumerate(zip(call.outputs, call.dtypes, strict=True))
            ]
            if call.vjp is None:
                gradients = mx.vjp(forward, given, every)[1]
                if call.block is not None:
                    gradients = parameters_first(call.arguments, gradients)
            else:
                forward(*given)
                nested = filled(call.arguments, again)
                nested = nested[0] if len(nested) == 1 else nested
                outputs = filled(result, again[count:])[0]
                gradients = arrays_of([call.vjp(nested, filled(result, every)[0], outputs)])
            return [*seen, *gradients]

        given = [_placeholder(a) for a in call.primals]
        if call.vjp is not None:
            # Its backward pass gets inputs and results anew: what both passes compute alike, both do compute.
            given += [_placeholder(a) for a in call.primals]
            given += [_like(a, dtype) for a, dtype in zip(call.outputs, call.dtypes, strict=True)]
        first = len(given)
        given += [_like(call.outputs[j], call.dtypes[j]) for j in wanted]
        with lean() if call.lean else nullcontext():
            part = self._trace(both, given, len(self._calls))
        part = part._replace(forward=_ancestors(part, part.results[: len(call.outputs)]))
        if key is not None:
            self._parts[key, wanted] = part
        return part

    # What was traced, put together

    def _place(
        self,
        graph: Graph,
        part: _Part,
        known: "_Places",
        which: Callable[[int], bool],
        block: int | None,
        scope: dict[int, Any],
    ) -> None:
        """Add some of a part's steps to the graph."""
        wanted: dict[int, set[int]] = {}
        for step in part.steps:
            if isinstance(step, _Marked) and step.backward:
                wanted.setdefault(step.call, set()).update(step.inputs)
        for number, step in enumerate(part.steps):
            if not which(number):
                continue
            if isinstance(step, _Step):
                inputs = [known[i] for i in step.inputs]
                graph.operation(step.name, step.arguments, inputs, [known[i] for i in step.outputs], block)
            elif step.backward:
                self._place_backward(graph, step, known, block, scope)
            else:
                slots = tuple(sorted(wanted.get(step.call, ())))
                self._place_forward(graph, step, known, slots, block, scope)

    def _place_forward(
        self,
        graph: Graph,
        step: _Marked,
        known: "_Places",
        wanted: tuple[int, ...],
        block: int | None,
        scope: dict[int, Any],
    ) -> None:
        call = self._calls[step.call]
        block = call.block if call.block is not None else block
        part = self._part(call, wanted)
        inner, own = _Places(graph, part), {}
        given = [known[step.inputs[i]] for i in range(len(call.primals))]
        inner.update(zip(part.given, given, strict=False))
        inner.update(self._from_outside(graph, part))
        self._place(graph, part, inner, part.forward.__getitem__, block, own)
        results = [inner[i] for i in part.results[: len(call.outputs)]]
        scope[step.call] = (part, inner, own, results, given)
        if call.recomputed:
            stopped = [graph.array(a) for a in call.outputs]
            for result, alias in zip(results, stopped, strict=True):
                graph.operation("StopGradient", [], [result], [alias], block)
            aliases = [graph.array(a) for a in call.outputs]
            graph.operation("CustomTransforms", [len(given)], [*given, *stopped], aliases, block)
            results = aliases
        known.update((local, results[j]) for j, local in step.outputs.items())
        for j, result in enumerate(results):
            place = (step.call, j)
            if place in self._awaited:
                graph.operation("Copy", [], [result], [self._outside[place]], block)
                self._awaited.remove(place)
            self._outside.setdefault(place, result)

    def _from_outside(self, graph: Graph, part: _Part) -> dict[int, int]:
        """Arrays that a function holds from outside of it: they may be made later than it is placed here."""
        for call, slot in part.outside.values():
            if (call, slot) not in self._outside:
                self._outside[call, slot] = graph.array(self._calls[call].outputs[slot])
                self._awaited.add((call, slot))
        return {local: self._outside[place] for local, place in part.outside.items()}

    def _place_backward(
        self, graph: Graph, step: _Marked, known: "_Places", block: int | None, scope: dict[int, Any]
    ) -> None:
        call = self._calls[step.call]
        block = call.block if call.block is not None else block
        part, inner, own, results, given = scope[step.call]
        cotangents = [known[local] for _, local in sorted(step.inputs.items())]
        if call.vjp is None and call.recomputed:
            inner, own = _Places(graph, part), {}
            again = [graph.array(graph.arrays[a]) for a in given]
            graph.operation("Depends", [], [*given, *cotangents], again, block)
            inner.update(zip(part.given, again, strict=False))
            inner.update(self._from_outside(graph, part))
            place = lambda number: True  # noqa: E731
        else:
            place = lambda number: not part.forward[number]  # noqa: E731
        if call.vjp is not None:
            inner.update(zip(part.given[len(given) :], [*given, *results], strict=False))
        inner.update(zip(part.given[len(part.given) - len(cotangents) :], cotangents, strict=True))
        self._place(graph, part, inner, place, block, own)
        first = len(call.outputs)
        known.update((local, inner[part.results[first + i]]) for i, local in step.outputs.items())


class _Places(dict[int, int]):
    """Local array -> its number in the graph; made when first asked for."""

    def __init__(self, graph: Graph, part: _Part):
        super().__init__()
        self._graph, self._part = graph, part

    def __missing__(self, local: int) -> int:
        self[local] = self._graph.array(self._part.arrays[local])
        return self[local]


def _described(array: mx.array) -> Array:
    return Array(tuple(array.shape), array.dtype.size)


def _like(array: Array, dtype: mx.Dtype) -> mx.array:
    return _placeholder(mx.broadcast_to(mx.zeros((), dtype), array.shape))


def _ancestors(part: _Part, results: Sequence[int]) -> list[bool]:
    """For every step, whether one of `results` needs it."""
    needed, used = set(results), [False] * len(part.steps)
    for number in range(len(part.steps) - 1, -1, -1):
        step = part.steps[number]
        marked = isinstance(step, _Marked)
        outputs = step.outputs.values() if marked else step.outputs
        if any(i in needed for i in outputs):
            used[number] = True
            needed.update(step.inputs.values() if marked else step.inputs)
    return used


class _Reader:
    """mlx's records of a trace to a part; marks to calls."""

    def __init__(self, marks: dict[int, tuple[int, str, int]], calls: Sequence[_Call], first: int):
        self._marks, self._calls, self._first = marks, calls, first
        self._names: dict[str, int] = {}
        self._arrays: list[Array] = []
        self._steps: list[Any] = []
        self._mark_of: dict[int, tuple[int, str, int]] = {}
        self._summed: dict[int, int] = {}  # sum -> what was summed
        self._terms: dict[int, tuple[int, str, dict[int, int]]] = {}
        self._called: dict[int, _Marked] = {}
        self._alias: dict[int, int] = {}
        self._growing: dict[int, tuple[int, ...]] = {}
        self._outside: dict[int, tuple[int, int]] = {}

    def read(self, records: Sequence[dict[str, Any]]) -> _Part:
        """The part; steps that no result needs are left out."""
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
        results = [self._alias.get(i, i) for i in results]
        part = _Part(self._arrays, self._steps, given, results, [], self._outside)
        used = _ancestors(part, results)
        steps = [step for step, needed in zip(self._steps, used, strict=True) if needed]
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
            if number >= _FIRST_MARK and number.is_integer() and int(number) in self._marks:
                self._mark_of[local] = self._marks[int(number)]

    def _operation(self, record: dict[str, Any]) -> None:
        name = record["name"]
        inputs = [self._local(a) for a in record["inputs"]]
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
        self._steps.append(_Step(name, record["arguments"], resolved, outputs))

    def _marked(self, mark: tuple[int, str, int], other: int, out: int) -> None:
        """A product with a mark: the sum of an input, the call itself, or one of its outputs."""
        call, kind, slot = mark
        if kind == "call":
            _, side, terms = self._terms[other]
            outputs: dict[int, int] = {}
            self._called[out] = _Marked(call, side == "out", terms, outputs)
            if call >= self._first:
                self._steps.append(self._called[out])
        elif other in self._called:
            step = self._called[other]
            local = len(self._arrays)
            self._arrays.append(Array((), 4))
            step.outputs[slot] = local
            called = self._calls[call]
            array = _described(called.primals[slot]) if step.backward else called.outputs[slot]
            self._arrays[local] = array
            if array.shape:
                self._growing[out] = array.shape
            if call < self._first:
                self._outside[local] = (call, slot)
            self._alias[out] = local
        else:
            source = self._summed.get(other, other)
            self._terms[out] = (call, kind, {slot: self._alias.get(source, source)})
