"""What makes a judge doubtful."""

import pytest

from mlx_dpo.judges.asking import Judged
from mlx_dpo.judges.completions import to_completions
from mlx_dpo.judges.kept_replies import Calls
from mlx_dpo.judges.summary import summarise
from mlx_dpo.judges.verdicts import Reading, compared

ROW = to_completions({"prompt": "Q?", "completions": ["long answer", "short"]}, "rows.jsonl:1")
FIRST_BOTH = (Reading("A"), Reading("A"))
LONGER = (Reading("A"), Reading("B"))
SHORTER = (Reading("B"), Reading("A"))
UNREADABLE = (Reading("A"), Reading(None, "the reply is empty"))


def summary(*readings):
    """One row per pair of readings of its only two answers."""
    judged = []
    for pair in readings:
        comparison = compared("long answer", "short", *pair)
        decided = {"first": (0, 1), "second": (1, 0)}.get(comparison.outcome)
        judged.append(Judged(ROW, decided, (comparison,)))
    return summarise(judged, {"train": [], "valid": []}, Calls())


@pytest.mark.parametrize(
    ("readings", "warned"),
    [
        ([LONGER] * 5 + [SHORTER] * 5, []),
        ([FIRST_BOTH] * 10, ["shown first"]),
        ([(Reading("B"), Reading("B"))] * 10, ["shown second"]),
        ([LONGER] * 10, ["longer"]),
        ([LONGER] * 9, []),  # too few to say so
        ([SHORTER] * 10, []),
        ([LONGER] * 4 + [SHORTER] * 4 + [UNREADABLE] * 2, ["unreadable"]),
    ],
)
def test_a_judge_is_warned_of_where_enough_verdicts_show_a_bias(readings, warned):
    told = summary(*readings).warnings
    assert len(told) == len(warned)
    assert all(word in text for word, text in zip(warned, told, strict=True))


def test_rows_are_counted_once_by_what_came_of_them():
    told = summary(LONGER, FIRST_BOTH, FIRST_BOTH, UNREADABLE)
    assert (told.rows, told.tied, told.unreadable, told.comparisons) == (4, 2, 1, 4)
    text = str(told)
    assert "without a pair: 2 tied, 1 unreadable" in text
    assert "comparisons                     4: 1 decided, 2 ties, 1 unreadable" in text


def test_the_reasons_why_replies_are_unreadable_are_counted():
    told = summary(UNREADABLE, UNREADABLE, LONGER)
    assert told.unreadable_reasons == {"the reply is empty": 2}
    assert "unreadable, since the reply is empty (2)" in str(told)


def test_an_empty_set_has_no_rate():
    told = summarise([], {"train": [], "valid": []}, Calls())
    assert told.as_json()["consistency"] == {"rate": None, "n": 0}
    assert "n = 0" in str(told)
