"""Memory while MLX computes a graph, from shapes and lifetimes of arrays alone. No array is made."""

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from mmap import PAGESIZE
from typing import NamedTuple

from .graph_operations import Graph, Operation

# From MLX's source: order, time and size of its allocations.
_WIDTH = 20
"""MLX walks a graph breadth first from its results while at most this many operations wait."""
_BEHIND = 40
"""How many operations MLX may allocate ahead of a CPU: 80 tasks, two per operation."""
_COMMANDS, _COMMAND_BYTES, _COMMANDS_BEHIND = 40, 40 * 2**20, 11
"""On a GPU: operations per command buffer, bytes of inputs that end it sooner, and buffers in progress."""
_SPARE = 2 * PAGESIZE
"""A free buffer may be reused for an array that is smaller by less than this, and more than half as large."""

_VIEWS = {"Broadcast", "ExpandDims", "Squeeze", "Transpose", "Slice", "Split", "AsStrided", "StopGradient"}
_VIEWS |= {"Copy", "Depends", "CustomTransforms", "View", "Reshape", "Flatten", "Unflatten", "Contiguous"}
"""Operations whose results use the memory of an input."""
_PRODUCTS = {"Matmul", "AddMM", "QuantizedMatmul", "GatherMM", "GatherQMM", "BlockMaskedMM"}
"""Operations whose results never use the memory of an input."""


class Moment(NamedTuple):
    """Bytes in use while one operation runs, by the block that made them; and the operation's block."""

    block: int | None
    blocks: dict[int | None, int]


def moments(graph: Graph, *, gpu: bool = False) -> list[Moment]:
    """Memory at every operation, in the order in which they run; constants are not counted."""
    lies_in: dict[int, int] = {}

    def memory(a: int) -> int:
        while a in lies_in:
            a = lies_in[a]
        return a

    tape = []
    for operation in order(graph):
        if operation.name in _VIEWS:
            lies_in.update((a, memory(source)) for a, source in _viewed(operation))
        else:
            tape.append(operation)
    last = {memory(a): place for place, operation in enumerate(tape) for a in operation.inputs}
    last |= {memory(a): len(tape) for a in graph.results}

    sizes = [array.nbytes for array in graph.arrays]
    buffers = [size + spare(size) for size in sizes]
    alive: dict[int, int | None] = {a: None for a in graph.given if a in last}
    blocks: Counter[int | None] = Counter({None: sum(buffers[a] for a in alive)})
    seen, leaving = [], deque[tuple[int, int]]()
    times, behind = (_command_buffers(tape, sizes), _COMMANDS_BEHIND) if gpu else (range(len(tape)), _BEHIND)
    for place, (time, operation) in enumerate(zip(times, tape, strict=True)):
        while leaving and leaving[0][0] + behind < time:
            left = leaving.popleft()[1]
            blocks[alive.pop(left)] -= buffers[left]
        inputs = dict.fromkeys(map(memory, operation.inputs))
        done = [a for a in inputs if a in alive and last[a] == place]
        for a in operation.outputs:
            free = [b for b in done if sizes[b] == sizes[a] and operation.name not in _PRODUCTS]
            if free:  # the result takes the memory of an input that nothing else needs
                done.remove(free[0])
                lies_in[a], last[free[0]] = free[0], last.get(a, place)
            else:
                alive[a] = operation.block
                blocks[operation.block] += buffers[a]
        done += [a for a in map(memory, operation.outputs) if last.get(a, place) == place]
        leaving.extend((time, a) for a in done)
        seen.append(Moment(operation.block, dict(blocks)))
    return seen


def spare(size: int) -> int:
    """Bytes by which the buffer of an array of `size` bytes may be larger than the array."""
    return min(size, _SPARE)


def _command_buffers(tape: Sequence[Operation], sizes: Sequence[int]) -> list[int]:
    """The number of the command buffer of each operation, on a GPU."""
    numbers, number, commands, nbytes = [], 0, 0, 0
    for operation in tape:
        if commands > _COMMANDS or nbytes > _COMMAND_BYTES:
            number, commands, nbytes = number + 1, 0, 0
        numbers.append(number)
        commands, nbytes = commands + 1, nbytes + sum(sizes[a] for a in operation.inputs)
    return numbers


def _viewed(operation: Operation) -> Iterable[tuple[int, int]]:
    """Each result of a view with the input whose memory it uses."""
    inputs, outputs = operation.inputs, operation.outputs
    if operation.name == "CustomTransforms":  # its last inputs are what it gives
        inputs = inputs[-len(outputs) :]
    elif operation.name != "Depends":
        inputs = inputs[:1] * len(outputs)
    return zip(outputs, inputs, strict=False)


def order(graph: Graph) -> list[Operation]:
    """The operations that the results need, as MLX's evaluation orders them."""
    made = {a: operation for operation in graph.operations for a in operation.outputs}
    last = Operation("Synchronize", graph.results, [], None)
    readers = _readers(last, made)
    tape, stack, place = [last], [], 0
    while place < len(tape) or stack:
        if place < len(tape):
            operation, start = tape[place], 0
            place += 1
        else:
            operation, start = stack.pop()
        for j, a in enumerate(operation.inputs[start:], start):
            source = made.get(a)
            if source is None:
                continue
            if len(tape) - place >= _WIDTH:
                stack.append((operation, j))
                break
            readers[source.outputs[0]] -= 1
            if not readers[source.outputs[0]]:
                tape.append(source)
    return tape[:0:-1]


def _readers(last: Operation, made: dict[int, Operation]) -> Counter[int]:
    """The number of readers of each operation that `last` needs, by its first result."""
    count: Counter[int] = Counter()
    stack = [last]
    while stack:
        for source in (made[a] for a in stack.pop().inputs if a in made):
            if source.outputs[0] not in count:
                stack.append(source)
            count[source.outputs[0]] += 1
    return count
