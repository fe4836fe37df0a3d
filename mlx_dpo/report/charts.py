"""The run's curves as inline SVG, by matplotlib; colours are left to the page."""

import io
import math
import re
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

from ..losses import BETA_RULES

Row = dict[str, float]
"""A line of metrics.jsonl."""


class Series(NamedTuple):
    """One line of a chart: a metric by step. Held-out metrics have few points, so these are marked."""

    metric: str
    label: str
    colour: str
    held_out: bool = False


class Chart(NamedTuple):
    """What is drawn into one picture, by `axis`; all its ids begin with `name`."""

    name: str
    title: str
    unit: str
    series: tuple[Series, ...]
    axis: str = "step"


class Mark(NamedTuple):
    """Something that happened at a step (or an epoch, if that is the charts' axis): a vertical line."""

    step: int
    kind: str


class Drawing(NamedTuple):
    """A chart ready for the page: ids, references and colours of its `svg` cannot clash with others."""

    name: str
    title: str
    unit: str
    svg: str


COLOURS = {"ink": "#000001", "rule": "#000002", "blue": "#000003", "orange": "#000004", "red": "#000005"}
"""Colours that stand for the page's CSS variables in matplotlib: the page has a light and a dark set."""

MARKS = {
    "alarm": ("red", "solid"),
    "skipped": ("orange", "dotted"),
    "resumed": ("ink", "dashed"),
    "best": ("blue", "dashed"),
    "stopped": ("ink", "solid"),
    "preferences": ("orange", "dashed"),
}
"""Colour and dashes of a mark by its kind."""
_OTHER_MARK = ("ink", "dotted")

_TIES = {"rewards/accuracies": 1, "eval/rewards/accuracies": 0}
"""Last step without an accuracy: the policy has not moved yet, and every pair is a tie."""


def _train_and_held_out(metric: str) -> tuple[Series, ...]:
    return Series(metric, "train", "blue"), Series(f"eval/{metric}", "held-out", "orange", True)


def _of_answers(kind: str) -> tuple[Series, ...]:
    """Rewards or log-probabilities of both answers, in training and held-out."""
    return (
        Series(f"{kind}/chosen", "chosen", "blue"),
        Series(f"{kind}/rejected", "rejected", "red"),
        Series(f"eval/{kind}/chosen", "chosen, held-out", "blue", True),
        Series(f"eval/{kind}/rejected", "rejected, held-out", "red", True),
    )


_KNOWN = (
    Chart("loss", "Loss", "nats", _train_and_held_out("loss")),
    Chart(
        "margins", "Reward margin, chosen − rejected", "beta · nats", _train_and_held_out("rewards/margins")
    ),
    Chart(
        "accuracy",
        "Accuracy: chosen has the higher reward",
        "share of pairs",
        _train_and_held_out("rewards/accuracies"),
    ),
    Chart("rewards", "Rewards, relative to the reference", "beta · nats", _of_answers("rewards")),
    Chart("logps", "Log-probabilities of answers", "nats", _of_answers("logps")),
    Chart("grad-norm", "Gradient norm, before clipping", "", (Series("grad_norm", "train", "blue"),)),
    Chart("learning-rate", "Learning rate", "", (Series("learning_rate", "train", "blue"),)),
    Chart("beta", "Beta", "", (Series("beta", "train", "blue"),)),
    Chart("speed", "Speed", "tokens per second", (Series("tokens_per_second", "train", "blue"),)),
    Chart("memory", "Peak memory", "GB", (Series("peak_memory_gb", "train", "blue"),)),
)

_STYLE = {
    "svg.hashsalt": "mlx_dpo",
    "svg.fonttype": "none",
    "font.size": 9,
    "font.sans-serif": ["DejaVu Sans"],
    "lines.linewidth": 1.1,
    "axes.linewidth": 0.6,
    "axes.formatter.useoffset": False,
    "axes.grid": True,
    "grid.linewidth": 0.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": COLOURS["rule"],
    "grid.color": COLOURS["rule"],
    "xtick.color": COLOURS["ink"],
    "ytick.color": COLOURS["ink"],
    "text.color": COLOURS["ink"],
    "axes.labelcolor": COLOURS["ink"],
    "legend.frameon": False,
}
_INCHES = (4.4, 2.5)
"""Narrow: a phone shows the picture at about this width, so that its letters stay readable."""


def drawings(rows: Sequence[Row], marks: Sequence[Mark] = ()) -> list[Drawing]:
    """Every chart for which these rows have data, in the order of the page."""
    return drawn(charts(rows), rows, marks)


def drawn(charts: Sequence[Chart], rows: Sequence[Row], marks: Sequence[Mark]) -> list[Drawing]:
    """Each chart, ready for the page."""
    return [Drawing(c.name, c.title, c.unit, draw(c, rows, marks)) for c in charts]


def charts(rows: Sequence[Row]) -> list[Chart]:
    """The charts to draw: known metrics, beta if it changes, metrics of its rule and of sampled answers."""
    found = []
    for chart in _KNOWN:
        series = tuple(s for s in chart.series if points(rows, s.metric)[0])
        still = chart.name == "beta" and len({row["beta"] for row in rows if "beta" in row}) < 2
        if series and not still:
            found.append(chart._replace(series=series))
    for metric in dict.fromkeys(metric for row in rows for metric in row):
        if metric.partition("/")[0] in BETA_RULES:
            found.append(Chart(_slug(metric), metric, "", (Series(metric, "train", "blue"),)))
        if metric.startswith("eval/samples/"):
            title = f"{metric.removeprefix('eval/')}: answers to held-out prompts"
            found.append(Chart(_slug(metric), title, "", (Series(metric, "held-out", "orange", True),)))
    return found


def _slug(metric: str) -> str:
    return re.sub(r"\W", "-", metric)


def points(rows: Sequence[Row], metric: str, axis: str = "step") -> tuple[list[float], list[float]]:
    """Steps at which a metric has a value, and the values."""
    found = [(row[axis], row[metric]) for row in rows if metric in row]
    found = [(step, value) for step, value in found if step > _TIES.get(metric, -1)]
    return [step for step, _ in found], [value for _, value in found]


def mark_words(kind: str) -> str:
    """A legend for marks of this kind: "best: blue, dashed"."""
    colour, dashes = MARKS.get(kind, _OTHER_MARK)
    return f"{kind}: {dashes}" if colour == "ink" else f"{kind}: {colour}, {dashes}"


def described(chart: Chart, rows: Sequence[Row]) -> str:
    """A chart in words, for people who cannot see it."""
    parts = []
    for series in chart.series:
        steps, values = points(rows, series.metric, chart.axis)
        finite = [value for value in values if math.isfinite(value)]
        if len(finite) < 2:
            told = (
                f"{finite[0]:.4g} at {chart.axis} {steps[values.index(finite[0])]}"
                if finite
                else "never finite"
            )
        else:
            told = f"{finite[0]:.4g} to {finite[-1]:.4g}, lowest {min(finite):.4g}, highest {max(finite):.4g}"
        parts.append(f"{series.label} {told}")
    return f"{chart.title}, by {chart.axis}. {'; '.join(parts)}."


def draw(chart: Chart, rows: Sequence[Row], marks: Sequence[Mark] = ()) -> str:
    """One chart as SVG; the line of a metric is a group with the id "<chart>-<metric>".

    Equal rows give equal text. In a line of more than 127 points, points that cannot be seen are left out.
    """
    from matplotlib import style
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with style.context(["default", _STYLE]):
        figure = Figure(figsize=_INCHES, layout="constrained")
        axes = figure.subplots()
        for series in chart.series:
            steps, values = points(rows, series.metric, chart.axis)
            axes.plot(
                steps,
                values,
                color=COLOURS[series.colour],
                linewidth=1.6 if series.held_out else None,
                marker="o" if series.held_out or len(steps) == 1 else None,
                markersize=3.5,
                label=series.label,
                gid=series.metric,
            )
        _draw_marks(axes, marks)
        axes.set_xlabel(chart.axis)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.margins(x=0.02)
        if chart.name == "accuracy":
            axes.set_ylim(-0.03, 1.03)
        if len(chart.series) > 1:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0)
        text = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(text, format="svg", metadata=nothing)
    return _inline(text.getvalue(), chart.name, described(chart, rows))


def _draw_marks(axes: Any, marks: Sequence[Mark]) -> None:
    """One group of vertical lines per kind; its id ends in "mark-<kind>"."""
    for kind in dict.fromkeys(mark.kind for mark in marks):
        colour, dashes = MARKS.get(kind, _OTHER_MARK)
        axes.vlines(
            [mark.step for mark in marks if mark.kind == kind],
            0,
            1,
            transform=axes.get_xaxis_transform(),  # from the bottom to the top of the chart
            colors=COLOURS[colour],
            linestyles=dashes,
            linewidth=0.8,
            gid=f"mark-{kind}",
        )


def _inline(svg: str, name: str, label: str) -> str:
    """An SVG file as an element of a page: without namespaces, with unique ids and the page's colours."""
    box, body = re.search(r'<svg[^>]*viewBox="([^"]*)"[^>]*>(.*)', svg, re.S).groups()
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.S)
    body = re.sub(r'(\bid="|xlink:href="#|url\(#)', rf"\g<1>{name}-", body)
    for colour, hex_code in COLOURS.items():
        body = body.replace(hex_code, f"var(--{colour})")
    return f'<svg viewBox="{box}" role="img" aria-label="{escape(label)}">{body.strip()}'
