"""report.html of a run, from the files of its folder."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..config import load_config
from ..errors import DpoError, first_ten
from ..models.adapters import CONFIG, WEIGHTS, read_adapter_config
from ..monitoring.run_log import EVENTS, METRICS
from ..monitoring.samples import SAMPLES
from ..report.page import Event, RunRecord, Sample, page
from ..report.templates import Setting
from ..settings import as_plain, described
from ..storage.files import write_text
from ..storage.jsonl import read_jsonl
from ..storage.reading import is_there, read_json
from .open_run import INSPECTION, settings_file

REPORT = "report.html"
_LARGEST = 2**53
"""Whole numbers below it are exact as a float."""
_BROKEN = "mlx-dpo train does not write such a line; remove it"
_WITH = {
    "loss": ["epoch"],
    "eval/loss": ["eval/pairs"],
    "eval/rewards/accuracies": ["eval/rewards/margins"],
}
"""Metrics that must be in every line of metrics.jsonl that has the first one."""


def report_run(folder: Path | str) -> Path:
    """Write `folder`/report.html; only files of the folder are read, and no model is loaded.

    Raises:
        DpoError: the folder is not a run, the adapter is not the one that the run wrote, a line of a file is
            broken (with its place), or a library is missing.
    """
    check_libraries()
    folder = Path(folder)
    if all(is_there(folder / name) for name in (CONFIG, WEIGHTS)):
        read_adapter_config(folder)
    path = folder / REPORT
    write_text(path, page(read_run(folder)))
    return path


def current_report(folder: Path) -> Path | None:
    """The run's report if it exists and is newer than the metrics."""
    report, metrics = folder / REPORT, folder / METRICS
    made = is_there(report) and is_there(metrics)
    made = made and report.stat().st_mtime_ns >= metrics.stat().st_mtime_ns
    return report if made else None


def check_libraries() -> None:
    """Raises DpoError if a library that a report needs is missing."""
    for library in missing_libraries():
        raise DpoError(f"needs {library}", where="mlx-dpo report", hint="pip install 'mlx-dpo[report]'")


def missing_libraries() -> list[str]:
    """Libraries that a report needs and that are not installed."""
    return [library for library in ("matplotlib", "jinja2") if not find_spec(library)]


def read_run(folder: Path) -> RunRecord:
    """The files of a run from which a report is made; events, samples and inspection may be missing.

    Raises:
        DpoError: with file and line.
    """
    config = settings_file(folder)
    return RunRecord(
        name=Path(os.path.realpath(folder)).name,
        settings=settings_of(load_config(config)),
        rows=_metrics(folder / METRICS),
        events=_events(folder / EVENTS),
        samples=_samples(folder / SAMPLES),
        inspection=_inspection(folder / INSPECTION),
    )


def settings_of(config: Any) -> list[Setting]:
    """All settings of a run, from its dataclass."""
    values = as_plain(config)
    found = []
    for name, default, _, _ in described(type(config)):
        value: Any = values
        for key in name.split("."):
            value = value[key]
        found.append(Setting(name, value, default))
    return found


def _metrics(path: Path) -> list[dict[str, float]]:
    rows = rows_of(path, {"step": int})
    for where, row in rows:
        wrong = [name for name, value in row.items() if not is_number(value)]
        if wrong:
            raise DpoError(f"not a number: {first_ten(wrong)}", where=where, hint=_BROKEN)
        if not 0 <= row.get("eval/rewards/accuracies", 0) <= 1 or row.get("eval/pairs", 1) < 1:
            raise DpoError("has an impossible accuracy or number of pairs", where=where, hint=_BROKEN)
        lacking = [name for kind in _WITH if kind in row for name in _WITH[kind] if name not in row]
        if lacking:
            raise DpoError(f"has no {first_ten(lacking)}", where=where, hint=_BROKEN)
    if not rows:
        raise DpoError("has no lines yet", where=path, hint="train first: the run has written no metrics")
    return [row for _, row in rows]


def is_number(value: Any) -> bool:
    """Whether this is a number that a float can represent: JSON has whole numbers of any length."""
    return isinstance(value, float) or (type(value) is int and abs(value) < _LARGEST)


def _events(path: Path) -> list[Event] | None:
    if not is_there(path):
        return None
    rows = rows_of(path, {"step": int, "event": str})
    told = Event._fields[2:]
    return [
        Event(row["step"], row["event"], **{name: str(row[name]) for name in told if row.get(name)})
        for _, row in rows
    ]


def _samples(path: Path) -> list[Sample] | None:
    if not is_there(path):
        return None
    rows = rows_of(path, {"step": int, "prompt": str, "answer": str})
    return [Sample(row["step"], row["prompt"], row["answer"]) for _, row in rows]


def _inspection(path: Path) -> Any:
    return read_json(path, "remove the file; the report is written without it") if is_there(path) else None


def rows_of(path: Path, kinds: dict[str, type]) -> list[tuple[str, dict[str, Any]]]:
    """("file:line", row) of every line, each with these fields.

    Raises:
        DpoError: a line without them.
    """
    rows = list(read_jsonl(path))
    for where, row in rows:
        for name, kind in kinds.items():
            if not isinstance(row.get(name), kind) or (kind is int and not is_number(row[name])):
                expected = {int: "a whole number", float: "a number"}.get(kind, "text")
                raise DpoError(f"{name!r} is missing or not {expected}", where=where, hint=_BROKEN)
    return rows
