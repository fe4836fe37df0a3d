"""Each alarm is raised by what it is for, at its border, and by nothing on this side of it."""

import pytest

from mlx_dpo.monitoring.alarms import CHECKS, About, alarms
from mlx_dpo.training.state import TrainState

ABOUT = About(steps=100, chosen_tokens=50.0, rejected_tokens=25.0, vanishes=True)


def evaluation(step, **figures):
    names = {"margin": "rewards/margins", "accuracy": "rewards/accuracies", "chosen": "logps/chosen"}
    row = {"margin": 0.5, "accuracy": 0.8, "chosen": -100.0} | figures
    return {"step": step} | {
        f"eval/{names.get(name, f'samples/{name}')}": value for name, value in row.items()
    }


def report(step, loss=0.5, norm=1.0):
    return {"step": step, "loss": loss, "grad_norm": norm}


def memory(peak, **more):
    return report(1) | {"peak_memory_gb": peak, **more}


def names(reports=(), evaluations=(), about=ABOUT):
    return [alarm.name for alarm in alarms(list(reports), list(evaluations), about)]


BORDERS = {
    "unmoved": (
        ([], [evaluation(0), evaluation(40, margin=0.0099)]),
        [
            ([], [evaluation(0), evaluation(40, margin=0.01)]),
            ([], [evaluation(0), evaluation(40, margin=-0.01)]),  # it moved, the wrong way
            ([], [evaluation(0), evaluation(39, margin=0.0)]),  # too early to tell
        ],
    ),
    "answers unchanged": (
        ([], [evaluation(40, margin=1.01, unchanged=1.0)]),
        [
            ([], [evaluation(40, margin=1.0, unchanged=1.0)]),
            ([], [evaluation(40, margin=8.0, unchanged=0.75)]),
            ([], [evaluation(39, margin=8.0, unchanged=1.0)]),  # early answers may well be the same
            ([], [evaluation(40, margin=8.0)]),  # nothing was sampled
        ],
    ),
    "chosen falls": (
        ([], [evaluation(0, chosen=-100.0), evaluation(20, chosen=-135.1)]),  # 50 tokens: 0.702 nats each
        [
            ([], [evaluation(0, chosen=-100.0), evaluation(20, chosen=-134.9)]),
            ([], [evaluation(0, chosen=-300.0)]),  # far off from the start: that is for inspect
            ([], [evaluation(0, chosen=-100.0), evaluation(20, chosen=-20.0)]),
        ],
    ),
    "margins too large": (
        ([], [evaluation(10, margin=10.1)]),
        [([], [evaluation(10, margin=10.0)])],
    ),
    "all right and growing": (
        ([], [evaluation(10, margin=4.0, accuracy=1.0), evaluation(20, margin=6.0, accuracy=1.0)]),
        [
            ([], [evaluation(10, margin=4.1, accuracy=1.0), evaluation(20, margin=6.0, accuracy=1.0)]),
            ([], [evaluation(10, margin=1.0, accuracy=1.0), evaluation(20, margin=5.0, accuracy=1.0)]),
            ([], [evaluation(10, margin=4.0, accuracy=1.0), evaluation(20, margin=6.0, accuracy=0.99)]),
        ],
    ),
    "loss vanished": (
        ([report(n, loss=0.0099) for n in range(5)], []),
        [
            ([report(n, loss=0.0099) for n in range(4)], []),
            ([report(n, loss=0.01 if n == 3 else 0.001) for n in range(5)], []),
        ],
    ),
    "gradient spike": (
        ([*(report(n) for n in range(20)), report(20, norm=20.1)], []),
        [
            ([*(report(n) for n in range(20)), report(20, norm=20.0)], []),
            ([*(report(n) for n in range(19)), report(19, norm=1000.0)], []),  # nothing usual yet
            ([*(report(n) for n in range(20)), report(20, norm=1000.0), report(21)], []),  # it is over
        ],
    ),
    "answers repeat": (
        ([], [evaluation(0, distinct_4=0.9, tokens=32.0), evaluation(20, distinct_4=0.71, tokens=32.0)]),
        [
            ([], [evaluation(0, distinct_4=0.9, tokens=32.0), evaluation(20, distinct_4=0.73, tokens=32.0)]),
            (
                [],
                [evaluation(0, distinct_4=0.9, tokens=32.0), evaluation(20, distinct_4=0.1, tokens=31.0)],
            ),  # too few
            (
                [],
                [evaluation(0, distinct_4=0.69, tokens=32.0), evaluation(20, distinct_4=0.1, tokens=32.0)],
            ),  # as before
        ],
    ),
    "answers grow": (
        ([], [evaluation(0, tokens=20.0), evaluation(20, tokens=100.1)]),
        [
            ([], [evaluation(0, tokens=20.0), evaluation(20, tokens=100.0)]),  # chosen answers have 50
            ([], [evaluation(0, tokens=60.0), evaluation(20, tokens=119.0)]),
        ],
    ),
    "memory above the plan": (
        ([memory(1.0011, planned_memory_gb=1.0)], []),
        [([memory(1.0009, planned_memory_gb=1.0)], []), ([memory(9.0)], [])],  # no plan, no alarm
    ),
}


def test_every_alarm_has_its_borders_here():
    assert set(BORDERS) == set(CHECKS)


@pytest.mark.parametrize("name", BORDERS)
def test_an_alarm_is_raised_at_its_border_and_not_before(name):
    raised, quiet = BORDERS[name]
    assert names(*raised) == [name]
    for rows in quiet:
        assert names(*rows) == []


def test_memory_counts_from_the_start_up_checks_on_and_without_what_was_held_before():
    above, within = [memory(0.5, planned_memory_gb=1.0)], [memory(1.2, planned_memory_gb=1.0)]
    assert names(above, about=ABOUT._replace(start_gb=1.1)) == ["memory above the plan"]
    assert names(within, about=ABOUT._replace(held_gb=0.2)) == []


def test_losses_that_do_not_vanish_have_no_such_alarm():
    assert names([report(n, loss=-3.0) for n in range(5)], about=ABOUT._replace(vanishes=False)) == []


def test_rows_of_answers_alone_and_of_no_held_out_pairs_raise_nothing():
    assert names([report(n) for n in range(30)]) == []
    assert names([], [{"step": 0, "eval/loss": 3.0, "eval/logps/chosen": -9.0}] * 2) == []


def test_an_alarm_says_what_was_seen_what_it_means_and_what_to_do():
    (alarm,) = alarms([], [evaluation(0), evaluation(40, margin=0.001)], ABOUT)
    assert alarm.seen == "after 40 of 100 updates the held-out margin is +0.0010"
    assert "ln 2" in alarm.meaning and "learning_rate" in alarm.remedy and not alarm.ruin


def test_nothing_is_ruin_where_answers_alone_are_learnt():
    """On the way to a foreign style answers repeat for a while; the held-out loss says when to end."""
    for step in (10, 40):
        rows = [evaluation(0, distinct_4=0.9, tokens=64.0), evaluation(step, distinct_4=0.3, tokens=64.0)]
        for answers_only in (False, True):
            found = alarms([], rows, ABOUT._replace(answers_only=answers_only))
            said = [] if answers_only and step == 10 else [("answers repeat", not answers_only)]
            assert [(alarm.name, alarm.ruin) for alarm in found] == said


def test_patience_ends_a_run_also_where_the_evaluation_at_its_end_was_ruinous():
    """The guard may only warn: of four without a lower loss, the third is ruinous and the fourth is not."""
    state = TrainState(beta=None, random=None)
    for loss, ruin in ((0.5, ""), (0.6, ""), (0.6, ""), (0.6, "margins")):
        state = state.after_evaluation({"step": 0, "eval/loss": loss}, 3, ruin)
        assert not state.stopped
    assert state.after_evaluation({"step": 0, "eval/loss": 0.6}, 3).stopped


def test_margins_are_those_that_the_loss_compares():
    """20 and -10 over 50 and 25 tokens: 0.4 and -0.4 a token."""
    row = evaluation(10, margin=30.0) | {"eval/rewards/chosen": 20.0, "eval/rewards/rejected": -10.0}
    assert names([], [evaluation(0), row]) == ["margins too large"]
    assert names([], [evaluation(0), row], ABOUT._replace(per_token=True)) == []
    far = row | {"eval/rewards/chosen": 260.0, "eval/rewards/rejected": -125.0}  # 5.2 + 5
    assert names([], [evaluation(0), far], ABOUT._replace(per_token=True)) == ["margins too large"]
