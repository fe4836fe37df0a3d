"""All operations of a computation with their shapes, without computing them; custom backward passes too.

mlx can list the operations of a graph only if all are built-in operations. A function with a custom backward
pass (see `custom_gradients.py`) is not one: in a trace its calls leave marks instead, differentiation carries
the marks into the backward pass, and afterwards the operations of the calls replace the marks.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

from ..forward.custom_gradients import arrays_of, filled, observed, parameters_first
from ..forward.kernels import as_now
from ..randomness import random_untouched
from ..upstream import recorded_trace
from .graph_reader import FIRST_MARK, Array, Call, Marked, Part, Reader, Step, ancestors, described


class Operation(NamedTuple):
    """One operation: arrays by their number. `block` is the model's block it belongs to, if any."""

    name: str
    inputs: list[int]
    outputs: list[int]
    block: int | None


class Graph:
    """All operations of a computation; its results, and the given arrays, whose memory it may reuse."""

    def __init__(self) -> None:
        self.arrays: list[Array] = []
        self.operations: list[Operation] = []
        self.results: list[int] = []
        self.given: list[int] = []

    def array(self, array: Array) -> int:
        """A new array's number."""
        self.arrays.append(array)
        return len(self.arrays) - 1

    def operation(self, name: str, inputs: list[int], outputs: list[int], block: int | None) -> None:
        """Add an operation."""
        self.operations.append(Operation(name, inputs, outputs, block))


def placeholders(tree: Any) -> Any:
    """Arrays of the same shapes and types, with one element each in memory."""
    found = tree_map(lambda array: mx.broadcast_to(mx.zeros((), array.dtype), array.shape), tree)
    mx.eval(found)
    return found


def trace(
    fun: Callable[..., Any],
    given: Sequence[mx.array] = (),
    *,
    blocks: Sequence[nn.Module] = (),
    alike: Sequence[Sequence[int]] = (),
    recomputed: bool = False,
    forget: Callable[[], None] = lambda: None,
) -> Graph:
    """The graph of all arrays in what `fun(*given)` gives.

    Args:
        given: arrays without other references: their memory is free after their last use.
        blocks: modules whose operations are marked with their place in this list.
        alike: places of blocks that do the same: one of them is traced, and stands for the others.
        recomputed: the blocks' forward pass runs again in the backward pass.
        forget: called after each part; must remove what `fun` leaves in a model.
    """
    return _Tracer(blocks, alike, recomputed, forget).graph(fun, given)


class _Tracer:
    def __init__(
        self,
        blocks: Sequence[nn.Module],
        alike: Sequence[Sequence[int]],
        recomputed: bool,
        forget: Callable[[], None],
    ):
        self._blocks = {id(block): place for place, block in enumerate(blocks)}
        self._first = {place: places[0] for places in alike for place in places}
        self._count: Counter[int] = Counter()
        self._recomputed, self._forget = recomputed, forget
        self._calls: list[Call] = []
        self._made: list[mx.array] = []
        self._marks: dict[int, tuple[int, str, int]] = {}
        self._scalars: dict[int, mx.array] = {}
        self._next = FIRST_MARK
        self._parts: dict[Any, Part] = {}
        self._results: dict[Any, Any] = {}
        self._outside: dict[tuple[int, int], int] = {}
        self._awaited: set[tuple[int, int]] = set()

    def graph(self, fun: Callable[..., Any], given: Sequence[mx.array]) -> Graph:
        """The whole graph."""
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
        """Replaces each call during a trace: returns marked arrays of the right shapes instead of results."""
        primals = arrays_of(args)
        block = self._blocks.get(id(owner)) if owner is not None else None
        key = self._key(fun, primals, block)
        results = self._results.get(key) if key else None
        if results is None:
            made = len(self._made)
            results = self._results[key] = fun(*args)
            del self._made[made:]  # only shapes were asked for
        arrays = arrays_of(results)
        number = len(self._calls)
        self._calls.append(
            Call(
                fun,
                vjp,
                args,
                primals,
                [described(a) for a in arrays],
                [a.dtype for a in arrays],
                block,
                block is None or self._recomputed,
                as_now(),
                key,
            )
        )
        total = None
        for i, array in enumerate(primals):
            part = array.sum().astype(mx.float32) * self._mark(number, "in", i)
            total = part if total is None else total + part
        total = total * self._mark(number, "call", 0)
        self._made.append(total)
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

    def _key(self, fun: Callable[..., Any], arrays: Sequence[mx.array], block: int | None) -> Any:
        """A key that equal calls share; None if the function may hold arbitrary objects.

        Blocks of one kind do the same in the first call of each, in the second, and so on.
        """
        shapes = [(tuple(a.shape), a.dtype) for a in arrays]
        if block is not None:
            self._count[block] += 1
            first = self._first.get(block)
            return None if first is None else (first, self._count[block], *shapes)
        held = tuple(cell.cell_contents for cell in fun.__closure__ or ())
        return (fun.__code__, held, *shapes) if all(isinstance(value, int) for value in held) else None

    # One function

    def _trace(self, fun: Callable[..., Any], given: Sequence[mx.array], first: int) -> Part:
        """`fun` over flat arrays. Calls before number `first` belong to another trace and are constants."""
        count = 0

        def recorded(*arrays):
            nonlocal count
            self._made = []
            results = fun(arrays)
            count = len(results)
            # mlx records what results need. A gradient alone may need no call's result, only its marks.
            return [*results, *self._made]

        try:
            # Dropout leaves a key that depends on the whole trace: the next trace would contain it too.
            with random_untouched(), observed(self._observe):
                records = recorded_trace(recorded, given)
        finally:
            self._forget()
        return Reader(self._marks, self._calls, first).read(records, count)

    def _part(self, call: Call, wanted: tuple[int, ...]) -> Part:
        """Forward and backward of a call: outputs, then gradients of all inputs, from inputs and cotangents.

        Args:
            wanted: the outputs that have a cotangent.
        """
        key = call.key and (call.key, wanted)
        if key in self._parts:
            return self._parts[key]
        count = len(call.primals)

        def both(arrays: Sequence[mx.array]) -> list[mx.array]:
            seen: list[mx.array] = []
            result: list[Any] = []

            def forward(*flat):
                result[:] = [call.fun(*filled(call.arguments, flat))]
                seen[:] = arrays_of(result)
                # If nothing is computed again, results without a cotangent need no backward pass.
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

        outputs = [mx.zeros(a.shape, dtype) for a, dtype in zip(call.outputs, call.dtypes, strict=True)]
        given = [*call.primals]
        if call.vjp is not None:
            # The backward pass gets new inputs and results: work that both passes share is done in both.
            given += [*call.primals, *outputs]
        first = len(given)
        given = placeholders([*given, *(outputs[j] for j in wanted)])
        with call.kernels():
            part = self._trace(both, given, len(self._calls))
        part = part._replace(forward=ancestors(part, part.results[: len(call.outputs)]))
        if key and not (call.block is not None and part.outside):
            self._parts[key] = part
        return part

    # What was traced, put together

    def _place(
        self,
        graph: Graph,
        part: Part,
        known: "_Places",
        which: Callable[[int], bool],
        block: int | None,
        scope: dict[int, Any],
    ) -> None:
        """Add some steps of a part to the graph."""
        wanted: dict[int, set[int]] = {}
        for step in part.steps:
            if isinstance(step, Marked) and step.backward:
                wanted.setdefault(step.call, set()).update(step.inputs)
        for number, step in enumerate(part.steps):
            if not which(number):
                continue
            if isinstance(step, Step):
                inputs = [known[i] for i in step.inputs]
                graph.operation(step.name, inputs, [known[i] for i in step.outputs], block)
            elif step.backward:
                self._place_backward(graph, step, known, block, scope)
            else:
                slots = tuple(sorted(wanted.get(step.call, ())))
                self._place_forward(graph, step, known, slots, block, scope)

    def _place_forward(
        self,
        graph: Graph,
        step: Marked,
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
                graph.operation("StopGradient", [result], [alias], block)
            aliases = [graph.array(a) for a in call.outputs]
            graph.operation("CustomTransforms", [*given, *stopped], aliases, block)
            results = aliases
        known.update((local, results[j]) for j, local in step.outputs.items())
        for j, result in enumerate(results):
            place = (step.call, j)
            if place in self._awaited:
                graph.operation("Copy", [result], [self._outside[place]], block)
                self._awaited.remove(place)
            self._outside.setdefault(place, result)

    def _from_outside(self, graph: Graph, part: Part) -> dict[int, int]:
        """Arrays from outside that a function uses; they may be made after the function's place here."""
        for call, slot in part.outside.values():
            if (call, slot) not in self._outside:
                self._outside[call, slot] = graph.array(self._calls[call].outputs[slot])
                self._awaited.add((call, slot))
        return {local: self._outside[place] for local, place in part.outside.items()}

    def _place_backward(
        self, graph: Graph, step: Marked, known: "_Places", block: int | None, scope: dict[int, Any]
    ) -> None:
        call = self._calls[step.call]
        block = call.block if call.block is not None else block
        part, inner, own, results, given = scope[step.call]
        cotangents = [known[local] for _, local in sorted(step.inputs.items())]
        if call.vjp is None and call.recomputed:
            inner, own = _Places(graph, part), {}
            again = [graph.array(graph.arrays[a]) for a in given]
            graph.operation("Depends", [*given, *cotangents], again, block)
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
    """Local array -> its number in the graph; made on first use."""

    def __init__(self, graph: Graph, part: Part):
        super().__init__()
        self._graph, self._part = graph, part

    def __missing__(self, local: int) -> int:
        self[local] = self._graph.array(self._part.arrays[local])
        return self[local]
