"""How long an array lives while MLX computes a graph: sums worked by hand, and memory that is simulated."""

from collections import Counter

import mlx.core as mx
import numpy as np
import pytest

from mlx_dpo.planning import liveness
from mlx_dpo.planning.graph_operations import Graph, Operation, trace
from mlx_dpo.planning.graph_reader import Array
from mlx_dpo.planning.liveness import moments, order

MB = Array((1000, 250), 4)
"""One megabyte."""


@pytest.fixture(autouse=True)
def nothing_is_behind_nor_spare(monkeypatch):
    monkeypatch.setattr(liveness, "_BEHIND", 0)
    monkeypatch.setattr(liveness, "_SPARE", 0)


def graph_of(*operations: tuple[str, str, str], results: str, given: str = "", sizes=None) -> Graph:
    """Operations as (name, inputs, outputs), each array a letter of 1 MB, or as many as `sizes` says."""
    graph, numbers = Graph(), {}
    for letter in sorted({c for _, *arrays in operations for c in "".join(arrays)}):
        numbers[letter] = graph.array(Array(((sizes or {}).get(letter, 1) * 1000, 250), 4))
    for name, inputs, outputs in operations:
        graph.operation(name, [numbers[c] for c in inputs], [numbers[c] for c in outputs], None)
    graph.results, graph.given = ([numbers[c] for c in letters] for letters in (results, given))
    return graph


def megabytes(graph: Graph, **options) -> list[float]:
    return [sum(moment.blocks.values()) / 1e6 for moment in moments(graph, **options)]


PRODUCTS = [("Matmul", "w", "a"), ("Matmul", "a", "b"), ("Matmul", "b", "c")]
"""Each takes memory of its own; w is a weight."""


def test_an_array_lives_from_its_maker_to_its_last_reader():
    assert megabytes(graph_of(*PRODUCTS, results="c")) == [1, 2, 2]
    late = graph_of(*PRODUCTS[:2], ("Matmul", "ba", "c"), ("Matmul", "c", "d"), results="d")
    assert megabytes(late) == [1, 2, 3, 2]


def test_a_result_stays():
    assert megabytes(graph_of(*PRODUCTS, results="ca")) == [1, 2, 3]


def test_what_is_given_is_free_once_it_was_read_and_weights_are_not_counted():
    assert megabytes(graph_of(*PRODUCTS, results="c", given="w")) == [2, 2, 2]


def test_an_operation_computes_in_the_memory_of_an_input_that_nothing_else_needs():
    chain = [("Matmul", "w", "a"), ("Exp", "a", "b"), ("Sin", "b", "c")]
    assert megabytes(graph_of(*chain, results="c")) == [1, 1, 1]
    assert megabytes(graph_of(*chain, results="ca")) == [1, 2, 2]  # a is needed
    assert megabytes(graph_of(*chain, results="c", sizes={"b": 2, "c": 2})) == [1, 3, 2]  # b is larger


def test_a_view_has_no_memory_and_holds_that_of_its_input():
    viewed = graph_of(
        ("Matmul", "w", "a"), ("Transpose", "a", "v"), ("Matmul", "w", "b"), ("Add", "bv", "c"), results="c"
    )
    assert max(megabytes(viewed)) == 2
    # A custom function gives its last inputs, dependencies what they are given, in this order.
    custom = graph_of(("Matmul", "w", "a"), ("CustomTransforms", "wa", "b"), ("Exp", "b", "c"), results="c")
    assert megabytes(custom) == [1, 1]
    depends = graph_of(("Matmul", "w", "a"), ("Depends", "aw", "bc"), ("Exp", "b", "d"), results="d")
    assert megabytes(depends) == [1, 1]


def test_an_array_outlives_its_reader_by_as_many_operations_as_computing_is_behind(monkeypatch):
    chain = graph_of(*PRODUCTS, ("Matmul", "c", "d"), ("Matmul", "d", "e"), results="e")
    assert megabytes(chain) == [1, 2, 2, 2, 2]
    monkeypatch.setattr(liveness, "_BEHIND", 1)
    assert megabytes(chain) == [1, 2, 3, 3, 3]


def test_on_a_gpu_an_array_outlives_its_reader_by_as_many_command_buffers(monkeypatch):
    monkeypatch.setattr(liveness, "_COMMANDS_BEHIND", 1)
    chain = graph_of(*PRODUCTS, ("Matmul", "c", "d"), ("Matmul", "d", "e"), results="e")
    assert megabytes(chain, gpu=True) == [1, 2, 3, 4, 5]  # all are in the first
    monkeypatch.setattr(liveness, "_COMMAND_BYTES", 500_000)  # each fills one
    assert megabytes(chain, gpu=True) == [1, 2, 3, 3, 3]


def test_a_small_array_may_lie_in_a_buffer_twice_as_large(monkeypatch):
    monkeypatch.setattr(liveness, "_SPARE", 8192)
    graph = Graph()
    small, large = (graph.array(Array((n,), 1)) for n in (100, 1_000_000))
    graph.operation("Full", [], [small, large], None)
    graph.results = [small, large]
    assert sum(moments(graph)[0].blocks.values()) == 200 + 1_008_192


@pytest.mark.skipif(mx.default_device() == mx.gpu, reason="Metal rounds sizes up to pages")
def test_mlx_takes_free_buffers_as_a_plan_expects(monkeypatch):
    """Held against MLX: what makes a plan for a tiny model too low if it is forgotten."""

    def array_of(n):
        array = mx.zeros((n,), mx.uint8) + 1
        mx.eval(array)
        return array

    def taken(size, free):
        mx.clear_cache()
        first = array_of(free)
        before = mx.get_active_memory()
        del first
        second = array_of(size)
        return mx.get_active_memory() - before + free if len(second) else 0

    monkeypatch.undo()
    spare = liveness._SPARE
    for size in (spare // 4, 8 * spare):
        largest = size + min(size, spare)
        assert taken(size, largest - 1) > size + 0.9 * min(size, spare)
        assert taken(size, largest + 64) == pytest.approx(size, abs=64)


def test_memory_is_told_by_block():
    graph = graph_of(*PRODUCTS, results="c")
    graph.operations[1] = graph.operations[1]._replace(block=4)
    assert [m.block for m in moments(graph)] == [None, 4, None]
    assert [dict(m.blocks) for m in moments(graph)][1:] == [{None: 1e6, 4: 1e6}, {None: 1e6, 4: 1e6}]


def test_operations_that_no_result_needs_are_left_out_and_all_others_come_after_what_they_read():
    graph = trace(lambda x: mx.exp(x @ x) + mx.sin(x), [mx.ones((4, 4))])
    graph.operation("Exp", graph.results, [graph.array(MB)], None)
    made = order(graph)
    assert sorted(op.name for op in made) == ["Add", "Exp", "Matmul", "Sin"]
    known = set(graph.given)
    for operation in made:
        assert known.issuperset(operation.inputs)
        known.update(operation.outputs)


@pytest.mark.parametrize(
    ("size", "expected"), [(0, 0), (1, 1), (4096, 4096), (8192, 8192), (8193, 8192), (10**9, 8192)]
)
def test_a_buffer_is_larger_by_the_whole_array_or_two_pages(size, expected, monkeypatch):
    monkeypatch.setattr(liveness, "_SPARE", 8192)
    assert liveness.spare(size) == expected


@pytest.mark.parametrize(
    ("commands", "megabytes_in_one", "numbers"),
    [
        (40, 40, [0, 0, 0, 0, 0, 0]),
        (1, 40, [0, 0, 1, 1, 2, 2]),  # a buffer ends after more than one operation
        (40, 1.5, [0, 0, 1, 1, 2, 2]),  # after more than 1.5 MB of inputs
        (40, 0.5, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_a_command_buffer_ends_after_so_many_operations_or_bytes(
    commands, megabytes_in_one, numbers, monkeypatch
):
    """Six operations, each of which reads one megabyte."""
    monkeypatch.setattr(liveness, "_COMMANDS", commands)
    monkeypatch.setattr(liveness, "_COMMAND_BYTES", int(megabytes_in_one * 1e6))
    tape = [Operation("Matmul", [n], [n + 1], None) for n in range(6)]
    assert liveness._command_buffers(tape, [10**6] * 7) == numbers


# Random graphs against memory that is simulated by counting who still holds each buffer.

IN_PLACE, PRODUCT, VIEW = "Add", "Matmul", "Transpose"


def random_graph(seed: int) -> Graph:
    """Forty operations on two weights, a given array and results of earlier operations."""
    rng, graph = np.random.default_rng(seed), Graph()
    sizes = [int(n) for n in rng.integers(1, 4, 3)]
    arrays = [graph.array(Array((size,), 1)) for size in sizes]
    graph.given = [arrays[0]]
    for _ in range(40):
        read = [int(a) for a in rng.choice(arrays[-8:], size=rng.integers(1, 3), replace=False)]
        name = str(rng.choice([IN_PLACE, PRODUCT, VIEW]))
        size = graph.arrays[read[0]].nbytes if name == VIEW else int(rng.integers(1, 4))
        outputs = [graph.array(Array((size,), 1)) for _ in range(1 if name == VIEW else rng.integers(1, 3))]
        graph.operation(name, read[:1] if name == VIEW else read, outputs, None)
        arrays += outputs
    graph.results = sorted({int(a) for a in rng.choice(arrays[3:], size=4)} | {arrays[-1]})
    return graph


def simulated(graph: Graph, behind: int = 0) -> list[int]:
    """Bytes while each operation that is no view runs: buffers are held by arrays, and these by readers."""
    run = order(graph)
    readers = Counter(a for operation in run for a in dict.fromkeys(operation.inputs))
    readers.update(graph.results)  # results are read for ever
    buffer_of = {a: a for a in range(len(graph.arrays))}
    made = {a for a in graph.given if readers[a]}
    holders = {a: {a} for a in made}  # buffer -> arrays that are still to be read
    size, leaving, seen, time = {a: graph.arrays[a].nbytes for a in made}, [], [], 0
    for operation in run:
        dying = []
        for a in dict.fromkeys(operation.inputs):
            readers[a] -= 1
            buffer = buffer_of[a]
            if operation.name == VIEW:
                (view,) = operation.outputs
                buffer_of[view] = buffer
                if buffer in holders:
                    holders[buffer].add(view)
            if not readers[a] and buffer in holders:
                holders[buffer].discard(a)
                if not holders[buffer]:
                    dying.append(buffer)
        if operation.name == VIEW:
            continue
        for left, buffer in list(leaving):
            if left + behind < time:
                leaving.remove((left, buffer))
                del size[buffer]
        for a in operation.outputs:
            nbytes = graph.arrays[a].nbytes
            reused = [b for b in dying if size[b] == nbytes] if operation.name == IN_PLACE else []
            buffer = reused[0] if reused else a
            if reused:
                dying.remove(buffer)
            buffer_of[a], holders[buffer], size[buffer] = buffer, {a} if readers[a] else set(), nbytes
        seen.append(sum(size.values()))
        unread = [buffer_of[a] for a in operation.outputs if not readers[a]]
        for buffer in [*dying, *unread]:
            del holders[buffer]
            leaving.append((time, buffer))
        time += 1
    return seen


@pytest.mark.parametrize("behind", [0, 1, 3])
@pytest.mark.parametrize("seed", range(30))
def test_memory_of_random_graphs_is_that_of_counting_who_holds_each_buffer(seed, behind, monkeypatch):
    monkeypatch.setattr(liveness, "_BEHIND", behind)
    graph = random_graph(seed)
    assert [sum(moment.blocks.values()) for moment in moments(graph)] == simulated(graph, behind)


@pytest.mark.parametrize("seed", range(30))
def test_random_graphs_are_ordered_as_what_they_read_is_made(seed):
    graph = random_graph(seed)
    known, run = {0, 1, 2}, order(graph)
    for operation in run:
        assert known.issuperset(operation.inputs)
        known.update(operation.outputs)
    assert known.issuperset(graph.results)
    read = {a for operation in run for a in operation.inputs} | set(graph.results)
    assert all(read.intersection(operation.outputs) for operation in run)  # none is left over
