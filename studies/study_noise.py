#!/usr/bin/env python
"""Does a beta that moves, or a robust loss, help where labels are wrong? Measured on the demo's model.

    mlx-dpo demo --output runs/demo
    python studies/study_noise.py --demo runs/demo --work runs/noise --docs docs
    python studies/study_noise.py --part 1/2 & python studies/study_noise.py --part 2/2   # two at a time

Of the demo's training pairs 0, 20 or 40 % get chosen and rejected exchanged; held-out pairs stay as they are.
Every way trains on the same pairs from the same seed. Interrupted, it goes on with the runs that --work
lacks (a study of changed code takes a new folder). Writes noise.md and, with matplotlib, noise.png; intervals
are 95 % over seeds (Student's t).
"""

import json
import shutil
from functools import partial
from importlib.metadata import version
from pathlib import Path

from study_loop import interval, results, study_options

from mlx_dpo.config import load_config
from mlx_dpo.demo.run_demo import shipped
from mlx_dpo.jobs.train import train_run

# isort: split
import numpy as np

NOISE = (0.0, 0.2, 0.4)
WAYS = {
    "fixed": [],
    "risk": ["beta.rule=risk", "beta.risk.warmup_steps=12"],
    "beta_dpo": ["beta.rule=beta_dpo"],
    "robust": ["loss.name=robust", "loss.options.label_smoothing=0.2"],
}
SHARED = ["training.eval_steps=1000", "training.select=last", "training.samples=0"]
"""Over config/demo.yaml: eight pairs a window, 59 updates."""
_FLIPS = 20_240_711
"""Flips have a stream of their own: `default_rng(seed)` is the order of the first epoch, so that all flipped
pairs would come first."""
FIGURES = {"eval/rewards/accuracies": "accuracy", "eval/rewards/margins": "margin", "beta": "last beta"}


def flipped(source: Path, target: Path, share: float, seed: int) -> Path:
    """The rows of `source` with chosen and rejected exchanged in this share of them."""
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    draw = np.random.default_rng([_FLIPS, seed])
    for place in draw.permutation(len(rows))[: round(share * len(rows))]:
        row = rows[place]
        row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    target.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return target


def trained(demo: Path, work: Path, way: str, share: float, seed: int) -> dict[str, float]:
    """Figures of one run on held-out pairs."""
    run = work / f"run-{way}-{share}-{seed}"
    data = flipped(demo / "pairs" / "train.jsonl", work / f"{run.name}.jsonl", share, seed)
    config = load_config(
        shipped("config/demo.yaml"),
        [
            f"model.path={demo / 'base'}",
            f"data.train={data}",
            f"data.valid={demo / 'pairs' / 'valid.jsonl'}",
            f"run.output={run}",
            f"training.seed={seed}",
            *SHARED,
            *WAYS[way],
        ],
    )
    shutil.rmtree(run, ignore_errors=True)
    result = train_run(config)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    beta = [row["beta"] for row in rows if "beta" in row][-1]
    shutil.rmtree(run)
    data.unlink()
    return {name: {**result.held_out, "beta": beta}[name] for name in FIGURES}


def table(found: dict[str, dict[str, float]], seeds: int) -> str:
    """One row a share and way; differences are of the same seeds."""
    lines = ["| flipped | way | accuracy | against fixed | margin | last beta |", "|---|---|---|---|---|---|"]
    for share in NOISE:
        for way in WAYS:
            own = {n: values(found, way, share, n, seeds) for n in FIGURES}
            base = values(found, "fixed", share, "eval/rewards/accuracies", seeds)
            accuracy, margin, beta = (interval(own[n]) for n in FIGURES)
            against = interval([a - b for a, b in zip(own["eval/rewards/accuracies"], base, strict=True)])
            cells = [
                f"{share:.0%}",
                f"`{way}`",
                f"{accuracy[0]:.3f} ± {accuracy[1]:.3f}",
                "" if way == "fixed" else f"{against[0]:+.3f} ± {against[1]:.3f}",
                f"{margin[0]:.2f} ± {margin[1]:.2f}",
                f"{beta[0]:.4f} ± {beta[1]:.4f}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def values(found: dict, way: str, share: float, name: str, seeds: int) -> list[float]:
    return [found[f"{way} {share} {seed}"][name] for seed in range(seeds)]


def plot(found: dict, seeds: int, path: Path) -> None:
    """Accuracy and margin over the share of flipped labels."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6))
    for axis, name in zip(axes, list(FIGURES)[:2], strict=True):
        for place, way in enumerate(WAYS):
            points = [interval(values(found, way, share, name, seeds)) for share in NOISE]
            x = [100 * share + 0.6 * (place - 1.5) for share in NOISE]
            axis.errorbar(x, [m for m, _ in points], [h for _, h in points], marker="o", capsize=3, label=way)
        axis.set_xlabel("flipped labels, %")
        axis.set_ylabel(f"held-out {FIGURES[name]}")
        axis.set_xticks([100 * share for share in NOISE])
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def page(found: dict, seeds: int) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("mlx", "mlx-lm", "mlx-dpo"))
    return f"""# Wrong labels

Does a moving beta or a robust loss help where labels are wrong? `studies/study_noise.py` trains the
demo's tiny Granite hybrid on the demo's pairs, with {seeds} seeds ({versions}). In 0, 20 or 40 % of the
training pairs chosen and rejected are exchanged; the 96 held-out pairs are all right. The settings come
from `config/demo.yaml`: 8 pairs a window, 59 updates. `risk` has a warm-up of 12 updates, and `robust`
has a `label_smoothing` of 0.2 whatever the share.

The table shows means over seeds and the 95 % interval. *Accuracy*: share of pairs whose chosen reward is
above the rejected one. *Margin*: the difference of the two rewards at beta 0.1.

{table(found, seeds)}

![accuracy and margin over the share of flipped labels](noise.png)
"""


def main() -> None:
    parser = study_options(__doc__, "noise")
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"), help="a finished demo")
    options = parser.parse_args()
    runs = [(way, share, seed) for seed in range(options.seeds) for share in NOISE for way in WAYS]
    found = results(options, runs, partial(trained, options.demo, options.work))
    if len(found) < len(runs):
        return
    if options.docs:
        (options.docs / "noise.md").write_text(page(found, options.seeds))
        plot(found, options.seeds, options.docs / "noise.png")
    print(table(found, options.seeds))


if __name__ == "__main__":
    main()
