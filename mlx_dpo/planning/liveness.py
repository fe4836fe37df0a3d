"""How MLX runs a graph: in which order, which buffers are shared, when they are free. No array is made."""

from collections import deque
from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from .operations import Graph, Operation

WIDTH = 20
"""MLX goes through a graph from its results breadth first, as long as no more than this many wait."""
_AHEAD = 80
"""Tasks by which evaluation on a CPU is ahead of the computing thread, as measured; at most 110."""
_TASKS = 2
"""Tasks of one operation: to compute it, and to let its inputs go. What only looks at a buffer is none."""
_COMMANDS, _COMMAND_BYTES, _COMMANDS_AHEAD = 40, 40 * 2**20, 11
"""On a GPU: operations of a command buffer, bytes of inputs that end one sooner, and buffers under way."""

_SHARING = {"Broadcast", "ExpandDims", "Squeeze", "Transpose", "Slice", "Split", "AsStrided", "StopGradient"}
_SHARING |= {"Copy", "Depends", "CustomTransforms", "View"}
_RESHAPING = {"Reshape", "Flatten", "Unflatten", "Contiguous"}
_PRODUCTS = {"Matmul", "AddMM", "QuantizedMatmul", "GatherMM", "GatherQMM", "BlockMaskedMM"}
_FRESH = {"Concatenate", "Pad", "Full", "Reduce", "Gather", "GatherAxis", "Arange", "Sort", "ArgSort"}
_FRESH |= {"ArgReduce", "Partition", "ArgPartition", "Convolution", "RandomBits", "Load", "Scan", "Hadamard"}
_FRESH |= _PRODUCTS
"""Their result never lies in the buffer of an input."""


class Moment(NamedTuple):
    """Memory while one operation runs: all of it, and by block."""

    operation: Operation
    total: int
    blocks: dict[int | None, int]


class _Buffer:
    __slots__ = ("block", "nbytes", "owners")

    def __init__(self, nbytes: int, block: int | None):
        self.nbytes, self.block, self.owners = nbytes, block, 0


class _Placed(NamedTuple):
    """Where an array lies: its buffer, None for what was there before; and its strides, in elements."""

    buffer: _Buffer | None
    strides: tuple[int, ...]


def moments(graph: Graph, *, gpu: bool = False, width: int = WIDTH) -> list[Moment]:
    """Memory at every operation, in the order in which they run; constants are not counted."""
    return _Run(graph, gpu, width).moments()


def order(graph: Graph, width: int = WIDTH) -> list[Operation]:
    """The operations that the results need, as MLX's evaluation orders them."""
    # Gradients that a custom function collects are taken block by block. Exactly as MLX does it, the order of
    # so many hangs on how many views stand where, which a trace does not show.
    made = {a: op for op in graph.operations for a in op.outputs}
    last = Operation("Synchronize", [], graph.results, [], None)
    waiting = _users(last, made)
    tape: list[Operation] = [last]
    stack: list[tuple[Operation, int]] = []
    place = 0
    while place < len(tape) or stack:
        if place < len(tape):
            operation, start = tape[place], 0
            place += 1
        else:
            operation, start = stack.pop()
        whole = operation.name == "CustomTransforms" and len(operation.inputs) > 2 * width
        block = None
        for j in range(start, len(operation.inputs)):
            source = made.get(operation.inputs[j])
            if source is None:
                continue
            behind = made.get(source.inputs[0], source) if source.name == "StopGradient" else source
            other = whole and block is not None and behind.block != block
            block = behind.block
            if len(tape) - place >= width or other:
                stack.append((operation, j))
                break
            key = source.outputs[0]
            waiting[key] -= 1
            if not waiting[key]:
                tape.append(source)
    return tape[:0:-1]


def _users(last: Operation, made: dict[int, Operation]) -> dict[int, int]:
    """How often each needed operation's results are used, by its first result."""
    count: dict[int, int] = {}
    stack = [last]
    while stack:
        for a in stack.pop().inputs:
            source = made.get(a)
            if source is None:
                continue
            key = source.outputs[0]
            if key not in count:
                count[key] = 0
                stack.append(source)
            count[key] += 1
    return count


class _Run:
    def __init__(self, graph: Graph, gpu: bool, width: int):
        self._graph, self._gpu = graph, gpu
        self._operations = order(graph, width)
        self._uses: dict[int, int] = {}
        for operation in self._operations:
            for a in operation.inputs:
                self._uses[a] = self._uses.get(a, 0) + 1
        for a in graph.results:
            self._uses[a] = self._uses.get(a, 0) + 1
        self._placed: dict[int, _Placed] = {}
        self._total = 0
        self._blocks: dict[int | None, int] = {}
        self._running: deque[tuple[int, _Buffer]] = deque()
        self._tasks = 0
        self._commands, self._command_bytes = 0, 0
        for a in graph.given:
            if self._uses.get(a):
                array = graph.arrays[a]
                self._put(a, _Placed(self._allocate(array.nbytes, None), contiguous(array.shape)))

    def moments(self) -> list[Moment]:
        seen = []
        for operation in self._operations:
            self._finish(self._tasks - (_COMMANDS_AHEAD if self._gpu else _AHEAD))
            self._do(operation)
            seen.append(Moment(operation, self._total, dict(self._blocks)))
        return seen

    def _do(self, operation: Operation) -> None:
        own = [self._where(a) for a in operation.inputs]
        block = operation.block
        if operation.name in _SHARING:
            self._share(operation, own)
        elif operation.name in _RESHAPING:
            self._reshape(operation, own[0], block)
        else:
            self._count(operation)
            if operation.name in _PRODUCTS:
                self._copies(operation, own, block)
            for a in operation.outputs:
                if not self._uses.get(a):
                    self._temporary(self._graph.arrays[a].nbytes, block)
                    continue
                self._put(a, self._result(operation, own, a, block))
        # Inputs are let go now; the running task holds their buffers, but not one that its result lies in.
        kept = [self._placed[a].buffer for a in operation.outputs[:1] if a in self._placed]
        for a, placed in zip(operation.inputs, own, strict=True):
            if placed.buffer is not None and placed.buffer not in kept:
                placed.buffer.owners += 1
                self._running.append((self._tasks, placed.buffer))
            self._uses[a] -= 1
            if not self._uses[a] and a in self._placed:
                self._release(self._placed.pop(a).buffer)

    def _result(self, operation: Operation, own: Sequence[_Placed], a: int, block: int | None) -> _Placed:
        """A buffer of its own, or that of an input which nothing else needs."""
        array = self._graph.arrays[a]
        strides = contiguous(array.shape)
        if operation.name in _FRESH:
            return _Placed(self._allocate(array.nbytes, block), strides)
        for i, placed in zip(operation.inputs, own, strict=True):
            given = self._graph.arrays[i]
            if given.shape != array.shape or not is_dense(given.shape, placed.strides):
                continue
            if len(operation.inputs) == 1:
                strides = placed.strides
            free = placed.buffer is not None and placed.buffer.owners == 1 and self._uses[i] == 1
            if free and placed.buffer.nbytes == array.nbytes:
                return _Placed(placed.buffer, placed.strides)
        if len(own) > 1 and all(p.strides == own[0].strides for p in own):
            given = self._graph.arrays[operation.inputs[0]]
            if given.shape == array.shape and is_dense(given.shape, own[0].strides):
                strides = own[0].strides
        return _Placed(self._allocate(array.nbytes, block), strides)

    def _share(self, operation: Operation, own: Sequence[_Placed]) -> None:
        name, count = operation.name, len(operation.outputs)
        for j, a in enumerate(operation.outputs):
            if not self._uses.get(a):
                continue
            source = j if name == "Depends" else len(own) - count + j if name == "CustomTransforms" else 0
            given = self._graph.arrays[operation.inputs[source]]
            strides = _view_strides(operation, given.shape, own[source].strides, self._graph.arrays[a].shape)
            self._put(a, _Placed(own[source].buffer, strides))

    def _reshape(self, operation: Operation, own: _Placed, block: int | None) -> None:
        a = operation.outputs[0]
        array, given = self._graph.arrays[a], self._graph.arrays[operation.inputs[0]]
        strides = reshaped_strides(given.shape, own.strides, array.shape)
        if operation.name == "Contiguous" and own.strides != contiguous(given.shape):
            strides = None
        if strides is None:
            self._count(operation)
            self._put(a, _Placed(self._allocate(array.nbytes, block), contiguous(array.shape)))
        else:
            self._put(a, _Placed(own.buffer, strides))

    def _copies(self, operation: Operation, own: Sequence[_Placed], block: int | None) -> None:
        """A product copies a matrix first that lies neither by rows nor by columns."""
        for i, placed in zip(operation.inputs, own, strict=True):
            shape = self._graph.arrays[i].shape
            if len(shape) < 2 or shape[-1] == 0:
                continue
            down, along = placed.strides[-2:]
            rows = along == 1 and (down == shape[-1] or shape[-2] == 1)
            columns = down == 1 and (along == shape[-2] or shape[-1] == 1)
            if not (rows or columns):
                self._temporary(self._graph.arrays[i].nbytes, block)

    def _count(self, operation: Operation) -> None:
        """Tasks, or on a GPU command buffers, so far."""
        if not self._gpu:
            self._tasks += _TASKS
            return
        self._commands += 1
        self._command_bytes += sum(self._graph.arrays[a].nbytes for a in operation.inputs)
        if self._commands > _COMMANDS or self._command_bytes > _COMMAND_BYTES:
            self._tasks += 1
            self._commands, self._command_bytes = 0, 0

    # Buffers

    def _where(self, a: int) -> _Placed:
        return self._placed.get(a) or _Placed(None, contiguous(self._graph.arrays[a].shape))

    def _put(self, a: int, placed: _Placed) -> None:
        self._placed[a] = placed
        if placed.buffer is not None:
            placed.buffer.owners += 1

    def _allocate(self, nbytes: int, block: int | None) -> _Buffer:
        self._total += nbytes
        self._blocks[block] = self._blocks.get(block, 0) + nbytes
        return _Buffer(nbytes, block)

    def _temporary(self, nbytes: int, block: int | None) -> None:
        buffer = self._allocate(nbytes, block)
        buffer.owners = 1
        self._running.append((self._tasks, buffer))

    def _release(self, buffer: _Buffer | None) -> None:
        if buffer is None:
            return
        buffer.owners -= 1
        if not buffer.owners:
            self._total -= buffer.nbytes
            self._blocks[buffer.block] -= buffer.nbytes

    def _finish(self, until: int) -> None:
        while self._running and self._running[0][0] <= until:
            self._release(self._running.popleft()[1])


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of an array that lies by rows."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def is_dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether an array fills its stretch of memory, in whatever order of its axes."""
    step = 1
    for stride, size in sorted((t, s) for t, s in zip(strides, shape, strict=True) if s != 1):
        if stride != step:
            return False
        step *= size
    return True


def reshaped_strides(
    shape: Sequence[int], strides: Sequence[int], new: Sequence[int]
) -> tuple[int, ...] | None:
    """Strides of the same memory in another shape; None where that needs a copy."""
    if prod(shape) == 0:
        return contiguous(new)
    old = [(s, t) for s, t in zip(shape, strides, strict=True) if s != 1]
    merged: list[list[int]] = []
    for size, stride in old:
        if merged and merged[-1][1] == size * stride:
            merged[-1] = [merged[-1][0] * size, stride]
        else:
            merged.append([size, stride])
    result: list[int] = []
    place = len(merged) - 1
    left, step = merged[place] if merged else (1, 1)
    for size in reversed(new):
        if size == 1:
            result.append(step)
            continue
        if left == 1:
            place -= 1
            left, step = merged[place]
        if left % size:
            return None
        result.append(step)
        left, step = left // size, step * size
    return tuple(reversed(result))


def _view_strides(
    operation: Operation, shape: Sequence[int], strides: Sequence[int], new: Sequence[int]
) -> tuple[int, ...]:
    name, arguments = operation.name, operation.arguments
    if name == "Broadcast":
        missing = len(new) - len(shape)
        own = [0 if s == 1 and n != 1 else t for s, t, n in zip(shape, strides, new[missing:], strict=True)]
        return (*[0] * missing, *own)
    if name == "Transpose":
        return tuple(strides[axis] for axis in arguments[0])
    if name == "Slice":
        return tuple(t * step for t, step in zip(strides, arguments[2], strict=True))
    if name == "AsStrided":
        return tuple(arguments[1])
    if name in ("ExpandDims", "Squeeze"):
        return reshaped_strides(shape, strides, new) or contiguous(new)
    return tuple(strides) if len(strides) == len(new) else contiguous(new)
