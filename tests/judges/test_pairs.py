"""The pair of a judged row: best against worst, or against the loser that is closest in length."""

import pytest

from mlx_dpo.judges.asking import Judged
from mlx_dpo.judges.completions import Completions
from mlx_dpo.judges.pairs import judged_pairs, with_close_length
from mlx_dpo.judges.verdicts import Comparison, Reading

ANSWERS = ("the best one", "a much longer answer that lost to the best", "bad one", "other one")
READ = Reading("A", "")


def judged(*outcomes, decided=(0, 1)):
    row = Completions(({"role": "user", "content": "Q?"},), ANSWERS, (True,) * 4, 4, "q", "rows:1", "q")
    compared = tuple(Comparison(ANSWERS[a], ANSWERS[b], READ, READ, outcome) for a, b, outcome in outcomes)
    return Judged(row, decided, compared)


@pytest.mark.parametrize(
    ("outcomes", "rejected"),
    [
        ([(0, 1, "first"), (0, 2, "first")], 2),  # 7 letters against 12
        ([(0, 1, "first"), (2, 0, "second")], 2),
        ([(0, 1, "first"), (0, 2, "tie")], 1),  # a tie is no loss
        ([(0, 1, "first"), (2, 3, "first")], 1),  # it lost, but not to the best
        ([(0, 1, "first"), (0, 2, "first"), (0, 3, "first")], 3),
        ([(0, 1, "first"), (0, 3, None)], 1),
    ],
)
def test_of_those_that_lost_to_the_best_the_closest_in_length_is_rejected(outcomes, rejected):
    assert with_close_length(judged(*outcomes)).decided == (0, rejected)


def test_by_default_the_worst_is_rejected():
    files = judged_pairs([judged((0, 1, "first"), (0, 2, "first"))], {"judge": "j"}, 0.1, 0)
    assert files["train"] == [
        {"id": "q", "prompt": "Q?", "chosen": ANSWERS[0], "rejected": ANSWERS[1], "meta": {"judge": "j"}}
    ]
