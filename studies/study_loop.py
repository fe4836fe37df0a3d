"""What studies have in common: their options, runs that are made once, means and intervals over seeds."""

import argparse
import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from mlx_dpo.storage.files import write_text

_T = {4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""97.5 % quantile of Student's t by degrees of freedom."""


def study_options(about: str, name: str) -> argparse.ArgumentParser:
    """--work, --docs, --seeds and --part of the study that writes docs/`name`."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    work = Path("runs") / name.replace("_", "-")
    parser.add_argument("--work", type=Path, default=work, help="runs and results go here")
    parser.add_argument("--docs", type=Path, help=f"write {name}.md and its picture, if it has one, here")
    parser.add_argument("--seeds", type=int, default=5, choices=range(5, 11))
    parser.add_argument("--part", default="1/1", help="1/2: only the first of every two runs, and no table")
    return parser


def results(
    options: argparse.Namespace, runs: Iterable[tuple[Any, ...]], make: Callable[..., dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Figures of every run by its words: what --work holds, and of this part what it lacks, made now."""
    part, parts = map(int, options.part.split("/"))
    options.work.mkdir(parents=True, exist_ok=True)
    found = {}
    for number, run in enumerate(runs):
        name = " ".join(map(str, run))
        path = options.work / f"{name}.json".replace(" ", "-").replace(",", "")
        if number % parts == part - 1 and not path.exists():
            write_text(path, json.dumps(make(*run)))
        if path.exists():
            found[name] = json.loads(path.read_text())
            print(name, {k: v for k, v in found[name].items() if not isinstance(v, list)}, flush=True)
    return found


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half of its 95 % interval."""
    half = _T[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values), half


def with_interval(values: Sequence[float], digits: int = 3) -> str:
    """The same in words: "0.719 ± 0.035"."""
    mean, half = interval(values)
    return f"{mean:.{digits}f} ± {half:.{digits}f}"
