"""A run's folder made of rows, and its page taken apart."""

import json
import re
from html.parser import HTMLParser

from mlx_dpo.config import load_config
from mlx_dpo.jobs.report import report_run
from mlx_dpo.report.charts import charts, draw
from mlx_dpo.settings import save_settings

from .mistakes import lines

STEPS = 12
VOID = {"meta", "br", "hr", "img", "input", "link", "use", "path", "rect"}


def train_row(step, **more):
    return {
        "step": step,
        "epoch": round(step / STEPS, 4),
        "loss": 0.7 - 0.02 * step + 0.01 * (step % 3),
        "rewards/chosen": 0.01 * step,
        "rewards/rejected": -0.03 * step,
        "rewards/margins": 0.04 * step,
        "rewards/accuracies": min(1.0, 0.5 + 0.05 * step),
        "logps/chosen": -40.0 + step,
        "logps/rejected": -50.0 - step,
        "beta": 0.1,
        "tokens_per_second": 900.0 + step,
        "pairs_per_second": 3.0,
        "learning_rate": 1e-5 * step,
        "grad_norm": 2.0 - 0.1 * step,
        "tokens": 3000 * step,
        "peak_memory_gb": 1.5,
        **more,
    }


def eval_row(step):
    return {
        "step": step,
        "eval/loss": 0.6931 - 0.015 * step,
        "eval/rewards/chosen": 0.01 * step,
        "eval/rewards/rejected": -0.02 * step,
        "eval/rewards/margins": 0.03 * step,
        "eval/rewards/accuracies": 0.875 if step else 0.0,
        "eval/logps/chosen": -41.0,
        "eval/logps/rejected": -52.0,
        "eval/pairs": 96,
    }


ROWS = [
    row
    for step in range(STEPS + 1)
    for row in ([train_row(step)] if step else []) + ([eval_row(step)] if step % 4 == 0 else [])
]
TOLD = [
    {
        name: value
        for name, value in row.items()
        if re.search("step|epoch|loss|pairs|margins|accuracies", name)
    }
    for row in ROWS
]
"""What the summary looks at."""
FEW = [{"step": step, "epoch": 1.0, "loss": 0.6} for step in (1, 2)]
"""Enough for a page with one curve."""


class Page(HTMLParser):
    """A page taken apart: its elements as (tag, attributes), and the text within each that has an id."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.open, self.text = [], [], {}
        self.feed(html)
        self.close()
        assert self.open == [], "an element was not closed"

    def handle_starttag(self, tag, attributes):
        self.handle_data(" " if tag == "br" else "")
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append((tag, dict(attributes).get("id")))

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            self.handle_data(" ")
            assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for _, name in self.open:
            if name:
                self.text[name] = self.text.get(name, "") + data

    def having(self, tag, attribute):
        return [a[attribute] for t, a in self.elements if t == tag and attribute in a]


def page_of(folder, rows=FEW, overrides=(), **files):
    """Write a run's folder: settings, rows and further files; its page, and the page's HTML."""
    folder.mkdir(exist_ok=True)
    settled = ["training.epochs=1", "optimizer.learning_rate=2e-5"]
    save_settings(
        load_config(None, ["model.path=models/granite", *settled, *overrides]), folder / "config.yaml"
    )
    (folder / "metrics.jsonl").write_text(lines(*rows))
    for name, content in files.items():
        if name == "inspection":
            (folder / "inspection.json").write_text(json.dumps(content))
        else:
            (folder / f"{name}.jsonl").write_text(lines(*content))
    html = report_run(folder).read_text()
    return Page(html), html


def places(svg, gid):
    """The corners of a chart's line, in the picture's units."""
    path = re.search(rf'id="{gid}">\s*<path d="([^"]*)"', svg)[1]
    return [(float(x), float(y)) for x, y in re.findall(r"[ML] (\S+) (\S+)", path)]


def drawn(name, rows=ROWS, marks=()):
    """The SVG of one chart."""
    return draw(next(chart for chart in charts(rows) if chart.name == name), rows, marks)
