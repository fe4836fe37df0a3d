"""Traced steps: the bytes of their arrays, their order, and which of them a result needs; worked by hand."""

import mlx.core as mx
import pytest

from mlx_dpo.planning.graph_operations import placeholders, trace
from mlx_dpo.planning.graph_reader import Array, Marked, Part, Step, ancestors, described, in_order

# Arrays 0 to 5; array 0 is given.
FROM_0, FROM_1, FROM_1_AND_2 = Step("A", [0], [1]), Step("B", [1], [2]), Step("C", [1, 2], [3])
ASIDE = Step("D", [1], [4])
FORWARD, BACKWARD = Marked(7, False, {0: 1}, {0: 2}), Marked(7, True, {0: 0}, {0: 5})


def part(*steps):
    return Part([], [*steps], [0], [], [], {})


@pytest.mark.parametrize(
    ("array", "nbytes"),
    [
        (Array((2, 3), 4), 24),
        (Array((2, 3), 2), 12),
        (Array((), 4), 4),
        (Array((5, 0), 4), 0),
        (described(mx.zeros((4, 5), mx.bfloat16)), 40),
        (described(mx.zeros((3,), mx.uint32)), 12),
    ],
)
def test_an_array_has_as_many_bytes_as_elements_times_their_size(array, nbytes):
    assert array.nbytes == nbytes


@pytest.mark.parametrize(
    ("steps", "ordered"),
    [
        ([FROM_0, FROM_1, ASIDE], [FROM_0, FROM_1, ASIDE]),  # as they are
        ([FROM_1, FROM_0], [FROM_0, FROM_1]),
        ([FROM_1_AND_2, ASIDE, FROM_1, FROM_0], [FROM_0, FROM_1, FROM_1_AND_2, ASIDE]),
        ([BACKWARD, FORWARD, FROM_0], [FROM_0, FORWARD, BACKWARD]),  # a backward pass after its forward pass
    ],
)
def test_every_step_comes_after_those_that_it_needs(steps, ordered):
    assert in_order(steps) == ordered


@pytest.mark.parametrize(
    ("results", "needed"),
    [
        ([1], [True, False, False, False]),
        ([2], [True, True, False, False]),
        ([3], [True, True, True, False]),
        ([4], [True, False, False, True]),
        ([2, 4], [True, True, False, True]),
        ([0], [False, False, False, False]),
    ],
)
def test_a_result_needs_what_it_is_made_of_and_nothing_else(results, needed):
    assert ancestors(part(FROM_0, FROM_1, FROM_1_AND_2, ASIDE), results) == needed


def test_a_backward_pass_needs_its_forward_pass_though_no_array_says_so():
    assert ancestors(part(FROM_0, FORWARD, BACKWARD), [5]) == [True, True, True]
    assert ancestors(part(FROM_0, FORWARD, BACKWARD), [1]) == [True, False, False]


@pytest.mark.parametrize(
    ("fun", "shapes", "names", "nbytes"),
    [
        (lambda x, y: x @ y, [(2, 3), (3, 5)], {"Matmul"}, 2 * 5 * 4),
        (lambda x: x.astype(mx.float16), [(8,)], {"AsType"}, 8 * 2),
        (lambda x: mx.exp(x).sum(axis=0), [(6, 7)], {"Exp", "Reduce"}, 7 * 4),
    ],
    ids=["product", "half precision", "sum"],
)
def test_a_trace_has_the_operations_and_the_bytes_of_the_result(fun, shapes, names, nbytes):
    graph = trace(fun, [mx.zeros(shape) for shape in shapes])
    assert names <= {operation.name for operation in graph.operations}
    assert sum(graph.arrays[a].nbytes for a in graph.results) == nbytes
    assert [graph.arrays[a].nbytes for a in graph.given] == [mx.zeros(shape).nbytes for shape in shapes]


def test_a_placeholder_has_shape_and_type_and_takes_one_element():
    before = mx.get_active_memory()
    found = placeholders({"a": mx.zeros((1000, 1000), mx.bfloat16)})["a"]
    assert (found.shape, found.dtype) == ((1000, 1000), mx.bfloat16)
    assert mx.get_active_memory() - before < 1000
