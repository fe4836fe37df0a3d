"""Replies to readings, two readings to an outcome, rates of comparisons."""

import json
import math

import pytest

from mlx_dpo.judges.verdicts import (
    Reading,
    Share,
    compared,
    consistency,
    first_position,
    longer_wins,
    read_labels,
    read_written,
)


def written(verdict="A", reason="It is true."):
    return json.dumps({"reason": reason, "verdict": verdict})


def outcome(forward, swapped, tie_band=0.0):
    return compared("one", "two", forward, swapped, tie_band).outcome


@pytest.mark.parametrize(
    "text",
    [
        written(),
        f"  {written()}\n",
        f"```json\n{written()}\n```",
        f"```\n{written()}\n```",
        f"<think>B? No: tie.</think>\n\n{written()}",
        f"B? No: tie.\n</think>\n\n{written()}",  # the template has written <think> into the prompt
    ],
)
def test_one_json_object_is_read_also_in_a_fence_and_after_thinking(text):
    assert read_written(text, "stop") == Reading("A", "It is true.")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        (" \n" * 300, "empty"),
        ("I prefer A, it is no tie.", "not one JSON object"),
        (f"Here it is: {written()}", "not one JSON object"),
        (f"{written()} {written('B')}", "not one JSON object"),
        (written()[:-2], "not one JSON object"),
        ('{"reason": "", "verdict": "A", "verdict": "B"}', "not one JSON object"),
        ("<think>A is better", "not one JSON object"),
        ('["A"]', "no reason"),
        ('{"verdict": "A"}', "no reason"),
        (written("Answer A"), "not A, B or tie"),
        (written(None), "not A, B or tie"),
        (written(["A"]), "not A, B or tie"),
        (written("AB"), "not A, B or tie"),
    ],
)
def test_every_other_reply_is_unreadable(text, why):
    reading = read_written(text, "stop")
    assert reading.verdict is None
    assert why in reading.reason


@pytest.mark.parametrize("end", ["length", "refusal", "content_filter"])
def test_a_reply_that_ended_early_is_unreadable_whatever_its_text_says(end):
    assert read_written(written(), end) == Reading(None, f"the reply ended early ({end})")


@pytest.mark.parametrize(
    ("reason", "named"),
    [
        ("It is true. A is better.", "A"),
        ("B is true, but long.\nSo answer A is better", None),
        ("B is true, but long. Answer A is better", "A"),
        ("B is better.", "B"),
        ("Both are short. **Neither is better.**", "tie"),
        ("A is better written. B is true", None),
        ("I doubt that A is better.", None),
        ("A is better. No, both are wrong.", None),
        ("", None),
    ],
)
def test_a_reason_that_ends_by_naming_another_answer_is_unreadable(reason, named):
    for verdict in ("A", "B", "tie"):
        reading = read_written(written(verdict, reason), "stop")
        if named in (None, verdict):
            assert reading == Reading(verdict, reason)
        else:
            assert reading == Reading(None, "the reason names another answer than the verdict")


@pytest.mark.parametrize("wrong", [math.nan, math.inf, 0.9, 1000.0])
def test_log_probabilities_that_cannot_be_any_give_no_verdict(wrong):
    for tokens in ([("A", wrong), ("B", -1.0)], [("A", -0.1), ("x", wrong)]):
        reading = read_labels(tokens)
        assert (reading.verdict, reading.reason[:30]) == (None, "the log-probabilities are wron")
    assert read_labels([("A", 1e-6), ("B", -20.0)]).verdict == "A"  # rounded


def test_a_label_verdict_is_the_share_of_the_letters_probability():
    reading = read_labels([("A", math.log(0.6)), (" B", math.log(0.1)), ("B", math.log(0.1)), ("The", -3)])
    assert reading.verdict == "A"
    assert reading.chance == pytest.approx(0.6 / 0.8)


def test_letters_that_the_judge_hardly_considers_give_no_verdict():
    assert read_labels([("The", math.log(0.95)), ("A", math.log(0.04))]).verdict is None
    assert read_labels([]).verdict is None


def test_both_orders_must_agree_else_it_is_a_tie():
    first = {
        ("A", "B"): "first",
        ("B", "A"): "second",
        ("A", "A"): "tie",
        ("B", "B"): "tie",
        ("A", "tie"): "tie",
        ("tie", "B"): "tie",
        ("tie", "tie"): "tie",
        ("A", None): None,
        (None, "B"): None,
    }
    assert {verdicts: outcome(*map(Reading, verdicts)) for verdicts in first} == first


@pytest.mark.parametrize(
    ("forward", "swapped", "band", "expected"),
    [
        (0.9, 0.2, 0.1, "first"),  # (0.9 + 1 - 0.2) / 2 = 0.85
        (0.9, 0.9, 0.1, "tie"),  # always the first: 0.5
        (0.7, 0.55, 0.1, "tie"),  # 0.575
        (0.7, 0.55, 0.05, "first"),
        (0.2, 0.7, 0.1, "second"),  # 0.25
    ],
)
def test_label_chances_are_averaged_over_both_orders_with_a_tie_band(forward, swapped, band, expected):
    readings = [Reading("A" if chance > 0.5 else "B", "", chance) for chance in (forward, swapped)]
    assert outcome(*readings, band) == expected


def test_the_rates_are_of_those_that_can_show_the_bias():
    comparisons = [
        compared("long one", "short", Reading("A"), Reading("B")),  # longer wins, consistent
        compared("short", "long one", Reading("A"), Reading("B")),  # shorter wins, consistent
        compared("short", "equal", Reading("A"), Reading("A")),  # always the first
        compared("short", "equal", Reading("tie"), Reading("tie")),  # consistent
        compared("short", "equal", Reading("A"), Reading(None)),  # unreadable
    ]
    assert consistency(comparisons) == Share(3, 4)
    assert first_position(comparisons) == Share(5, 7)
    assert longer_wins(comparisons) == Share(1, 2)


def test_nothing_has_no_rate():
    assert Share(0, 0).rate is None
