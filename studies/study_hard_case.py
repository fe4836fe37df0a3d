#!/usr/bin/env python
"""The published attempt that failed, rebuilt in small: do the defaults end in a better model?

    python studies/study_hard_case.py --work runs/hard-case --docs docs
    python studies/study_hard_case.py --part 1/2 & python studies/study_hard_case.py --part 2/2   # two

A tiny Granite hybrid was taught plain answers, and some in the house style. Chosen answers are an expert's:
in that style, but two to eight times as long, and for the most part nothing that the model has ever said.
Rejected ones are sampled from the model. 300 pairs, 60 held-out ones. Every recipe
trains on the same pairs, of which each seed draws its own.

The published recipes have no warm-up, no held-out pairs and no alarm; they are run with their own rates, and
with rates as much larger as the default is on a model of this size (config/demo.yaml). Interrupted, it goes
on with the runs that --work lacks. Writes hard_case.md and, with matplotlib, hard_case.png; intervals are
95 % over seeds (Student's t).
"""

import fcntl
import json
import shutil
import statistics
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hard_case import make_base, score
from study_loop import results, study_options, with_interval

from mlx_dpo.config import RunConfig, load_config
from mlx_dpo.data.conversation_tokens import prompt_tokens
from mlx_dpo.data.pair_store import open_pairs
from mlx_dpo.data.row_index import index_rows
from mlx_dpo.data.sources import read_pairs
from mlx_dpo.forward.pair_logps import SHARED
from mlx_dpo.forward.scoring import score_pairs, singles
from mlx_dpo.inspection.advice import Step, commands
from mlx_dpo.jobs.gen_pairs import generate_pairs
from mlx_dpo.jobs.inspect import inspect_pairs
from mlx_dpo.jobs.train import train_run
from mlx_dpo.metrics import distinct_n
from mlx_dpo.models.adapters import load_adapter
from mlx_dpo.models.generate import generate_answers
from mlx_dpo.models.load import find_model, load_model, load_tokenizer
from mlx_dpo.storage.jsonl import write_jsonl

# isort: split
import numpy as np

PAIRS, HELD_OUT = 300, 60
LARGER = 50
"""Times the usual rate that a model of this size bears, as in config/demo.yaml."""
PUBLISHED = {"A": (5e-6, 0.3), "B": (1e-4, 0.5), "C": (2e-5, 0.2), "D": (1e-5, 0.1)}
"""Learning rate and beta of the four published runs."""
AS_PUBLISHED = [
    *("adapter.rank=8", "adapter.scale=10", "optimizer.warmup_ratio=0", "optimizer.schedule=constant"),
    *("training.epochs=2", "training.guard=off", "training.select=last", "training.patience=null"),
]
RATE = 2e-5 * LARGER
"""The default, for a model of this size."""
SFT = Step("sft", (f"optimizer.learning_rate={5 * RATE:g}", "training.epochs=2"))
DEFAULTS = Step("train")


def published(run: str, times: float) -> list[Step]:
    """One of the published runs, at so many times its rate."""
    rate, beta = PUBLISHED[run]
    return [Step("train", (*AS_PUBLISHED, f"optimizer.learning_rate={rate * times}", f"beta.value={beta}"))]


RECIPES: dict[str, list[Step]] = {
    **{f"published {run}": published(run, 1) for run in PUBLISHED},
    **{f"published {run}, rate x {LARGER}": published(run, LARGER) for run in PUBLISHED},
    "defaults": [DEFAULTS],
    "defaults, anchored": [Step("train", ("loss.name=[sigmoid, sft]",))],
    "sft": [SFT],
    "sft, then defaults": [SFT, DEFAULTS],
    "sft, then sigmoid_norm and sft": [SFT, Step("train", ("loss.name=[sigmoid_norm, sft]", "beta.value=5"))],
}
"""Commands, one after the other, with the settings that they need besides the defaults."""


def settings(work: Path, seed: int, name: str, more: list[str]) -> RunConfig:
    """Settings of a run, on a seed's own pairs."""
    pairs = work / f"pairs-{seed}"
    return load_config(
        None,
        [
            f"model.path={work / 'base'}",
            f"data.train={pairs / 'train.jsonl'}",
            f"data.valid={pairs / 'valid.jsonl'}",
            "data.max_length=256",
            f"pairs.source={work / f'curated-{seed}.jsonl'}",
            f"pairs.valid_source={work / f'heldout-{seed}.jsonl'}",
            f"pairs.output={pairs}",
            "generate.max_tokens=160",
            f"generate.seed={seed}",
            f"training.seed={seed}",
            f"optimizer.learning_rate={RATE}",
            f"run.output={work / f'run-{seed}-{name}'.replace(' ', '-').replace(',', '')}",
            *more,
        ],
    )


def prepare(work: Path, seeds: int) -> None:
    """The base model, and every seed's pairs; another part that starts meanwhile waits for them."""
    work.mkdir(parents=True, exist_ok=True)
    with open(work / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        make_base(work)
        for seed in range(seeds):
            make_pairs(work, seed)


def make_pairs(work: Path, seed: int) -> None:
    """This seed's rows, with answers of the base model as rejected ones."""
    if (work / f"pairs-{seed}" / "train.jsonl").exists():
        return
    rng = np.random.default_rng([1, seed])
    for name, count in (("curated", PAIRS), ("heldout", HELD_OUT)):
        rows = [json.loads(line) for line in (work / f"{name}.jsonl").read_text().splitlines()]
        chosen = sorted(rng.permutation(len(rows))[:count].tolist())
        write_jsonl(work / f"{name}-{seed}.jsonl", [rows[i] for i in chosen])
    generate_pairs(settings(work, seed, "pairs", []))


def trained(work: Path, recipe: str, seed: int) -> dict[str, Any]:
    """Figures of one recipe, or of the base model, on held-out pairs and prompts."""
    if recipe == "base":
        return judged(settings(work, seed, recipe, []), None) | {"advised": advised(work, seed)}
    output, before = settings(work, seed, recipe, []).run.output, []
    for command, own in RECIPES[recipe]:
        more = [*before, *own]
        if command == "sft":
            more += ["loss.name=sft", f"run.output={output}-sft"]
            before = [f"model.adapter={output}-sft"]
        config = settings(work, seed, recipe, more)
        result = train_run(config)
    figures = judged(config, result.folder)
    rows = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    figures["steps"] = max(row["step"] for row in rows)
    figures["curve"] = [
        [row["step"], row.get("eval/rewards/accuracies"), row["eval/logps/chosen"]]
        for row in rows
        if "eval/loss" in row
    ]
    events = [json.loads(line) for line in lines_of(result.folder / "events.jsonl")]
    figures["alarms"] = sorted({event["name"] for event in events if event["event"] == "alarm"})
    for folder in (output, f"{output}-sft"):
        shutil.rmtree(folder, ignore_errors=True)
    return figures


def advised(work: Path, seed: int) -> str:
    """The recipe that `mlx-dpo inspect` advises for a seed's pairs; else its commands.

    What it says of rows to be mended is left out: these are what they are.
    """
    config = settings(work, seed, "base", [])
    steps = [
        Step(command, tuple(s for s in own if not s.startswith(("run.output=", "model.adapter="))))
        for command, own in commands(inspect_pairs(config).advice)
        if command != "inspect"
    ]
    return next((recipe for recipe, own in RECIPES.items() if own == steps), str(steps))


def lines_of(path: Path) -> list[str]:
    """The lines of a file that need not be there."""
    return path.read_text().splitlines() if path.exists() else []


def judged(config: RunConfig, adapter: Path | None) -> dict[str, float]:
    """What the base model, or the one with this adapter, does with held-out pairs and prompts."""
    base = find_model(config.model.path)
    tokenizer = load_tokenizer(base)
    pairs = open_pairs(index_rows(config.data.valid), tokenizer, config.data.max_length)
    rows = read_pairs(config.data.valid)
    model, _ = load_model(base)
    reference = score_pairs(model, pairs, SHARED, singles(pairs))
    if adapter:
        load_adapter(model, adapter)
    scores = score_pairs(model, pairs, SHARED, singles(pairs))
    margins = (scores - reference) @ np.array([1, -1])
    prompts = [prompt_tokens(tokenizer, row.prompt) for row in rows]
    answers = sorted(generate_answers(model, tokenizer, prompts, replace(config.generate, temperature=0.0)))
    ids = [tokenizer.encode(answer.text, add_special_tokens=False) for answer in answers]
    own = [score(answer.text, row.chosen) for answer, row in zip(answers, rows, strict=True)]
    return {
        "accuracy": float((margins > 0).mean()),
        "chosen": float((scores[:, 0] / pairs.sizes[:, 1]).mean()),
        "distinct_4": statistics.mean(distinct_n(tokens, 4) for tokens in ids),
        "tokens": statistics.mean(len(tokens) for tokens in ids),
        "score": statistics.mean(own),
        "scores": own,
    }


FIGURES = {
    "accuracy": "held-out accuracy",
    "chosen": "chosen, nats per token",
    "distinct_4": "distinct-4",
    "tokens": "tokens",
    "score": "style and correctness",
}


def wins(own: list[float], base: list[float]) -> float:
    """Share of prompts whose answer scores above the base model's; a tie counts half."""
    return statistics.mean((a > b) + 0.5 * (a == b) for a, b in zip(own, base, strict=True))


def table(found: dict[str, dict], seeds: int) -> str:
    """One row a recipe, the base model first."""
    heads = ["recipe", *FIGURES.values(), "win rate against base", "updates"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for recipe in ("base", *RECIPES):
        own = [found[f"{recipe} {seed}"] for seed in range(seeds)]
        base = [found[f"base {seed}"] for seed in range(seeds)]
        cells = [with_interval([figures[name] for figures in own]) for name in FIGURES]
        if recipe == "base":
            cells = ["", *cells[1:], "", ""]
        else:
            cells.append(
                with_interval([wins(a["scores"], b["scores"]) for a, b in zip(own, base, strict=True)])
            )
            cells.append(f"{statistics.mean(figures['steps'] for figures in own):.0f}")
        lines.append("| " + " | ".join([recipe, *cells]) + " |")
    return "\n".join(lines)


PAGE = """# The hard case

What happens when the answers you want are far from anything the model would say? An attempt at this task
was published, and all four of its runs failed. It trained on {pairs} pairs: the chosen answers were an
expert's and far longer than the model's answers, which were the rejected ones. It used DPO with LoRA of
rank 8 and scale 10, without warm-up, held-out pairs or alarms. The runs had these learning rates and
betas: A 5e-6 and 0.3, B 1e-4 and 0.5, C 2e-5 and 0.2, D 1e-5 and 0.1.

`studies/study_hard_case.py` rebuilds the attempt in small, with {seeds} seeds ({versions}): a tiny
Granite hybrid, {pairs} pairs and {held} held-out pairs a seed. The chosen answers have a style that the
model rarely uses, and most of them are nothing that it has ever said. The published recipes train for
two epochs, as published; DPO with the defaults of mlx_dpo for one; `mlx-dpo sft` for two. A model of
this size needs higher learning rates, so the recipes of mlx_dpo run at {larger} times the usual rate,
and the published recipes run both at their own rate and at {larger} times that.

The table shows means over seeds and half of the 95 % interval. *Accuracy*: of held-out pairs, against
the base model. *Distinct-4*: share of the runs of four tokens in a greedy answer that are different.
*Style and correctness*: one half for greeting, second step and closing proverb, the other half for the
two facts of the question (`score` in the script). *Win rate*: share of held-out prompts on which the
answer scores above the base model's; a tie counts half.

{table}

![held-out accuracy and log-probability of chosen answers](hard_case.png)

Recipe that `mlx-dpo inspect` advised, and in how many of {seeds} seeds: {advice}.

| recipe | lowest accuracy of a seed | lowest distinct-4, as a share of the base model's | alarms (seeds) |
|---|---|---|---|
{least}
"""


def page(found: dict[str, dict], seeds: int) -> str:
    """The study as a document."""
    advice = [found[f"base {seed}"]["advised"] for seed in range(seeds)]
    least = []
    for recipe in RECIPES:
        own = [found[f"{recipe} {seed}"] for seed in range(seeds)]
        share = [
            found[f"{recipe} {s}"]["distinct_4"] / found[f"base {s}"]["distinct_4"] for s in range(seeds)
        ]
        alarms = {
            name: sum(name in figures["alarms"] for figures in own) for f in own for name in f["alarms"]
        }
        told = ", ".join(f"{name} ({count})" for name, count in alarms.items())
        least.append(f"| {recipe} | {min(f['accuracy'] for f in own):.3f} | {min(share):.3f} | {told} |")
    return PAGE.format(
        seeds=seeds,
        versions=", ".join(f"{name} {version(name)}" for name in ("mlx", "mlx-lm", "mlx-dpo")),
        pairs=PAIRS,
        held=HELD_OUT,
        larger=LARGER,
        table=table(found, seeds),
        advice=", ".join(f"{recipe} ({advice.count(recipe)})" for recipe in dict.fromkeys(advice)),
        least="\n".join(least),
    )


def plot(found: dict[str, dict], seeds: int, path: Path) -> None:
    """Held-out accuracy and chosen log-prob of every evaluation, a line a recipe and seed."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes, colours = figure.subplots(1, 2), colormaps["tab20"].colors
    for place, recipe in enumerate(RECIPES):
        for seed in range(seeds):
            steps, accuracy, chosen = zip(*found[f"{recipe} {seed}"]["curve"], strict=True)
            look = {"color": colours[place], "lw": 1, "label": recipe if seed == 0 else None}
            for axis, values in zip(axes, (accuracy, chosen), strict=True):
                if None not in values:  # at step 0 every pair is a tie
                    axis.plot(steps[1:], values[1:], **look)
    axes[0].set_ylabel("held-out accuracy against the run's own reference")
    axes[1].set_ylabel("log-probability of held-out chosen answers, nats")
    for axis in axes:
        axis.set_xlabel("updates")
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside right upper", fontsize=7)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = study_options(__doc__, "hard_case")
    parser.add_argument("--only", nargs="+", choices=RECIPES, default=list(RECIPES))
    options = parser.parse_args()
    prepare(options.work, options.seeds)
    recipes = ("base", *options.only)
    runs = [(recipe, seed) for seed in range(options.seeds) for recipe in recipes]
    found = results(options, runs, partial(trained, options.work))
    if len(found) < options.seeds * (1 + len(RECIPES)):
        return
    print(table(found, options.seeds))
    if options.docs:
        (options.docs / "hard_case.md").write_text(page(found, options.seeds))
        plot(found, options.seeds, options.docs / "hard_case.png")


if __name__ == "__main__":
    main()
