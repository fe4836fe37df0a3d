"""The curves of a run: a corner for every row, a line for every event, on one scale."""

import re

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from mlx_dpo.report.charts import Mark, charts, drawings, points

from ..support.pages import ROWS, STEPS, drawn, places


@pytest.mark.parametrize(
    ("chart", "metric"),
    [
        ("loss", "loss"),
        ("loss", "eval/loss"),
        ("accuracy", "rewards/accuracies"),
        ("logps", "logps/rejected"),
    ],
)
def test_a_line_has_a_corner_at_every_row_and_nowhere_else(chart, metric):
    corners = places(drawn(chart), f"{chart}-{metric}")
    data = [(row["step"], row[metric]) for row in ROWS if metric in row]
    data = data[1:] if "accuracies" in metric else data
    assert len(corners) == len(data)
    for axis in (0, 1):
        values, spots = [d[axis] for d in data], [d[axis] for d in corners]
        low, high = values.index(min(values)), values.index(max(values))
        scale = (spots[high] - spots[low]) / (values[high] - values[low])
        assert (scale > 0) == (axis == 0)  # an SVG's y points down
        assert spots == pytest.approx([spots[low] + scale * (v - values[low]) for v in values], abs=1e-4)


def test_lines_of_one_chart_share_its_axes():
    """Held-out loss 0.6931 at step 0, train loss 0.69 at step 1: one place on one scale."""
    svg = drawn("loss")
    train, held = places(svg, "loss-loss"), places(svg, "loss-eval/loss")
    a_step = (train[-1][0] - train[0][0]) / (STEPS - 1)
    assert held[0][0] == pytest.approx(train[0][0] - a_step, abs=1e-4)
    a_nat = (train[-1][1] - train[0][1]) / (ROWS[-2]["loss"] - ROWS[1]["loss"])
    assert held[0][1] == pytest.approx(train[0][1] + a_nat * (0.6931 - ROWS[1]["loss"]), abs=1e-4)


def test_every_event_is_a_line_at_its_step_on_every_curve():
    marks = [Mark(3, "alarm"), Mark(9, "alarm"), Mark(8, "best")]
    for drawing in drawings(ROWS, marks):
        metric = trained_metric(drawing.name)
        places_of = dict(
            zip(points(ROWS, metric)[0], places(drawing.svg, f"{drawing.name}-{metric}"), strict=True)
        )
        for kind in ("alarm", "best"):
            group = re.search(rf'id="{drawing.name}-mark-{kind}".*?</g>', drawing.svg, re.S)[0]
            lines_at = [float(x) for x in re.findall(r'd="M (\S+) ', group)]
            steps = [mark.step for mark in marks if mark.kind == kind]
            assert lines_at == pytest.approx([places_of[step][0] for step in steps], abs=1e-4)


def test_events_do_not_move_the_curves():
    marks = [Mark(3, "alarm"), Mark(8, "best")]
    for name in ("logps", "learning-rate"):
        gid = f"{name}-{trained_metric(name)}"
        assert places(drawn(name, marks=marks), gid) == places(drawn(name), gid)


def trained_metric(name):
    return next(chart.series[0].metric for chart in charts(ROWS) if chart.name == name)
