"""The best and the worst of several answers by as few comparisons as decide them."""

from collections.abc import Callable, Sequence

from .verdicts import FIRST, SECOND

Compare = Callable[[int, int], str | None]
"""The outcome for two answers: "first", "second", "tie", or None if it is unreadable."""


def best_and_worst(count: int, compare: Compare) -> tuple[int, int] | None:
    """Numbers of the best and the worst of `count` >= 2 answers; None if no verdict separates them.

    A knock-out tournament finds the best. The worst is among those that lost and beat nobody; a second
    tournament finds it. That takes at most about 3/2 * count comparisons. After a tie, or where a reply is
    unreadable, the earlier answer goes on. If ties then leave no chain of verdicts from the best to the
    worst, these two are compared.

    4 answers, each better than the next: 0-1, 2-3; 0-2 -> 0 is best; of the losers 1 and 3: 1-3 -> 3 is worst
    """
    beaten: dict[int, set[int]] = {number: set() for number in range(count)}

    def meet(first: int, second: int) -> str | None:
        outcome = compare(first, second)
        if outcome == FIRST:
            beaten[first].add(second)
        elif outcome == SECOND:
            beaten[second].add(first)
        return outcome

    best = _knock_out(range(count), lambda first, second: meet(first, second) == SECOND)
    lost = set().union(*beaten.values())
    last = sorted(number for number in lost if not beaten[number])
    if not last:
        return None
    worst = _knock_out(last, lambda first, second: meet(first, second) == FIRST)
    if worst not in _below(best, beaten) and meet(best, worst) != FIRST:
        return None
    return best, worst


def _knock_out(players: Sequence[int], second_goes_on: Callable[[int, int], bool]) -> int:
    """The winner of rounds of neighbours; one without a neighbour goes on."""
    players = list(players)
    while len(players) > 1:
        pairs = zip(players[::2], players[1::2], strict=False)
        winners = [second if second_goes_on(first, second) else first for first, second in pairs]
        players = winners + players[len(winners) * 2 :]
    return players[0]


def _below(number: int, beaten: dict[int, set[int]]) -> set[int]:
    """Those that this one beat, those that they beat, and so on."""
    found: set[int] = set()
    left = [number]
    while left:
        new = beaten[left.pop()] - found
        found |= new
        left += new
    return found
