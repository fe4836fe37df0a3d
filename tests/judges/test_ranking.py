"""Best and worst of several answers."""

import itertools

import pytest

from mlx_dpo.judges.ranking import best_and_worst


def counting(outcome):
    """The outcome of two numbers, and the list of those that were compared."""
    asked = []

    def compare(first, second):
        asked.append((first, second))
        return outcome(first, second)

    return compare, asked


def by_rank(ranks):
    return lambda first, second: "first" if ranks[first] < ranks[second] else "second"


@pytest.mark.parametrize(("count", "most"), [(2, 1), (3, 3), (4, 4), (5, 6), (6, 7)])
def test_every_order_of_clear_answers_is_found_by_as_few_comparisons_as_possible(count, most):
    for ranks in itertools.permutations(range(count)):
        compare, asked = counting(by_rank(ranks))
        assert best_and_worst(count, compare) == (ranks.index(0), ranks.index(count - 1))
        assert len(asked) <= most


def test_eight_answers_take_ten_comparisons():
    compare, asked = counting(by_rank(range(8)))
    assert best_and_worst(8, compare) == (0, 7)
    assert len(asked) == 10  # 3 / 2 * 8 - 2


@pytest.mark.parametrize("outcome", ["tie", None])
def test_without_a_verdict_there_is_no_best_and_no_worst(outcome):
    assert best_and_worst(4, lambda first, second: outcome) is None


def test_one_verdict_among_ties_gives_its_two_answers():
    verdicts = {(0, 1): "second"}
    compare, asked = counting(lambda first, second: verdicts.get((first, second), "tie"))
    assert best_and_worst(3, compare) == (1, 0)
    assert asked == [(0, 1), (1, 2)]


def test_best_and_worst_are_compared_if_ties_leave_no_chain_between_them():
    # 1 ties with 0 and goes out, 2 beats 3 and then ties with 0: 0 is best, 3 lost only to 2.
    def compare_as(last):
        return {(0, 1): "tie", (2, 3): "first", (0, 2): "tie", (0, 3): last}

    for last, expected in (("first", (0, 3)), ("tie", None), ("second", None)):
        verdicts = compare_as(last)
        assert best_and_worst(4, lambda first, second, v=verdicts: v[first, second]) == expected
