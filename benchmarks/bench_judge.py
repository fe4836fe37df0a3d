"""Seconds a request of a local judge that keeps its memory of what requests share, against one that does not.

    python benchmarks/bench_judge.py --model "$(python scripts/get_smollm2.py | head -1)" [--rows 4]

The rubric is style, with four curated answers; every row has three answers, which takes up to six requests
by letters. Rounds are interleaved; prints JSON: medians, spread, ratios, versions, hardware.
"""

import argparse
import json
import os
import platform
import statistics
import time
from importlib.metadata import version

import mlx_dpo  # noqa: F401  (loads the fast BLAS before MLX)
from mlx_dpo.data.sources import read_curated
from mlx_dpo.demo.run_demo import shipped
from mlx_dpo.judges.asking import label_request
from mlx_dpo.judges.local import LocalJudge
from mlx_dpo.judges.prompts import Quoted, load_rubric


def requests(rubric, rows, count):
    """Comparisons of each of `count` prompts with every two of three answers, in both orders."""
    for number in range(count):
        row, *others = rows[number * 7 : number * 7 + 3]
        answers = [row.answer, *(other.answer for other in others)]
        for a, b in ((0, 1), (0, 2), (1, 2)):
            for first, second in ((a, b), (b, a)):
                yield label_request(rubric, Quoted(row.prompt, answers[first], answers[second]))


def one_round(judge, asked, keep):
    """Seconds, processor seconds and processed prompt tokens a request."""
    judge._kept, judge._last = [], []
    start, processor, before = time.perf_counter(), time.process_time(), judge.processed
    for request in asked:
        if not keep:
            judge._kept, judge._last = [], []
        judge.ask(request)
    spent = time.perf_counter() - start, time.process_time() - processor, judge.processed - before
    return [value / len(asked) for value in spent]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--rubric", default="style")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    a = parser.parse_args()
    rows = read_curated(shipped("data/curated.jsonl"))
    asked = list(requests(load_rubric(a.rubric, rows), rows, a.rows))
    judge = LocalJudge(a.model)
    judge.check()
    found = {"anew": [], "kept": []}
    for _ in range(a.repeats):
        for way, rounds in found.items():
            rounds.append(one_round(judge, asked, way == "kept"))
    columns = {way: list(zip(*rounds, strict=True)) for way, rounds in found.items()}
    medians = {way: [statistics.median(column) for column in every] for way, every in columns.items()}
    result = {
        "settings": vars(a),
        **{
            f"{way}_seconds": [round(min(c[0]), 3), round(medians[way][0], 3), round(max(c[0]), 3)]
            for way, c in columns.items()
        },
        **{f"{way}_prompt_tokens": round(medians[way][2], 1) for way in columns},
        "ratio_of_time": round(medians["anew"][0] / medians["kept"][0], 2),
        "ratio_of_processor_time": round(medians["anew"][1] / medians["kept"][1], 2),
        "versions": {n: version(n) for n in ("mlx", "mlx-lm")} | {"python": platform.python_version()},
        "hardware": {"machine": platform.machine(), "cores": os.cpu_count()},
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
