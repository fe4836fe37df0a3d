"""Votes of a person against verdicts of a judge."""

import pytest

from mlx_dpo.errors import DpoError
from mlx_dpo.judges.agreement import Asked, agreement, matched, read_vote
from mlx_dpo.judges.verdicts import Reading, compared


def test_kappa_is_the_agreement_beyond_chance():
    pairs = [("first", "first")] * 4 + [("second", "second")] * 3
    pairs += [("first", "second")] * 2 + [("second", "first")]
    told = agreement(pairs)
    # Agreed 7 of 10; by chance 0.6 * 0.5 + 0.4 * 0.5 = 0.5; (0.7 - 0.5) / (1 - 0.5) = 0.4
    assert (told.n, told.same) == (10, 7)
    assert told.kappa == pytest.approx(0.4)
    assert told.kappa_interval[0] < 0.4 < told.kappa_interval[1]
    assert told == agreement(pairs)


def test_kappa_is_undefined_where_both_always_say_the_same():
    told = agreement([("first", "first")] * 5)
    assert (told.same, told.kappa, told.kappa_interval) == (5, None, None)
    assert "kappa is undefined" in str(told)


def test_no_votes_give_no_agreement():
    with pytest.raises(ValueError, match="empty"):
        agreement([])


@pytest.mark.parametrize(
    ("answers", "vote", "person"),
    [
        (["one", "two"], 1, "first"),
        (["two", "one"], 1, "second"),
        (["two", "one"], "2", "first"),
        (["two", " one\n"], "tie", "tie"),
    ],
)
def test_a_vote_counts_for_the_answer_it_names_in_whatever_order_they_were_shown(answers, vote, person):
    asked = Asked("Q?", compared("one", "two", Reading("A"), Reading("B")))
    votes = dict([read_vote({"prompt": "Q?", "answers": answers, "vote": vote}, "votes.jsonl:1")])
    assert matched([asked], votes) == [("first", person)]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Q?", "answers": ["one", "two"]},
        {"prompt": "Q?", "answers": ["one", "two"], "vote": 3},
        {"prompt": "Q?", "answers": ["one"], "vote": 1},
        {"answers": ["one", "two"], "vote": 1},
        {"prompt": "Q?", "answers": "one", "vote": 1},
    ],
)
def test_a_line_that_is_no_vote_is_refused_with_its_place(row):
    with pytest.raises(DpoError, match="is not a vote") as caught:
        read_vote(row, "votes.jsonl:4")
    assert caught.value.where == "votes.jsonl:4"
