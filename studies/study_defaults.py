#!/usr/bin/env python
"""Are the defaults right? Rate, beta, warm-up and the supervised term around them, on the demo's model.

    mlx-dpo demo --output runs/demo
    python studies/study_defaults.py --demo runs/demo --docs docs
    python studies/study_defaults.py --part 1/2 & python studies/study_defaults.py --part 2/2   # two

The demo's pairs and config/demo.yaml, whose rate is fifty times the default, as a model of this size bears;
one setting is changed at a time. Interrupted, it goes on with the runs that --work lacks. Writes defaults.md;
intervals are 95 % over seeds (Student's t).
"""

import json
import shutil
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from study_loop import results, study_options, with_interval

from mlx_dpo.config import RunConfig, load_config
from mlx_dpo.data.conversation_tokens import prompt_tokens
from mlx_dpo.data.sources import read_curated
from mlx_dpo.demo.run_demo import in_house_style, shipped
from mlx_dpo.jobs.train import train_run
from mlx_dpo.metrics import distinct_n
from mlx_dpo.models.adapters import load_adapter
from mlx_dpo.models.generate import generate_answers
from mlx_dpo.models.load import load_model, load_tokenizer

RATE = 1e-3
"""Of config/demo.yaml."""
VARIANTS = {
    "defaults": [],
    "rate x 0.2": [f"optimizer.learning_rate={0.2 * RATE:g}"],
    "rate x 5": [f"optimizer.learning_rate={5 * RATE:g}"],
    "beta 0.02": ["beta.value=0.02"],
    "beta 0.5": ["beta.value=0.5"],
    "no warm-up": ["optimizer.warmup_ratio=0"],
    "rate x 5, no warm-up": [f"optimizer.learning_rate={5 * RATE:g}", "optimizer.warmup_ratio=0"],
    "anchored": ["loss.name=[sigmoid, sft]"],
}
FIGURES = {
    "accuracy": "held-out accuracy",
    "style": "in the house style",
    "right": "right, word for word",
    "distinct_4": "distinct-4",
}


def settings(demo: Path, work: Path, variant: str, seed: int) -> RunConfig:
    """Of one run on the demo's pairs."""
    own = [
        f"model.path={demo / 'base'}",
        f"data.train={demo / 'pairs' / 'train.jsonl'}",
        f"data.valid={demo / 'pairs' / 'valid.jsonl'}",
        f"run.output={work / f'run {variant} {seed}'}",
        f"training.seed={seed}",
    ]
    return load_config(shipped("config/demo.yaml"), [*own, *VARIANTS[variant]])


def trained(demo: Path, work: Path, variant: str, seed: int) -> dict[str, Any]:
    """Figures of one run on held-out pairs and questions."""
    config = settings(demo, work, variant, seed)
    folder, held_out = train_run(config)
    tokenizer, (model, _) = load_tokenizer(demo / "base"), load_model(demo / "base")
    load_adapter(model, folder)
    rows = read_curated(shipped("data/heldout.jsonl"))
    prompts = [prompt_tokens(tokenizer, row.prompt) for row in rows]
    greedy = replace(config.generate, temperature=0.0)
    answers = [answer.text for answer in sorted(generate_answers(model, tokenizer, prompts, greedy))]
    shares = [distinct_n(tokenizer.encode(text, add_special_tokens=False), 4) for text in answers]
    known = [share for share in shares if share is not None]
    events = folder / "events.jsonl"
    told = [json.loads(line) for line in events.read_text().splitlines()] if events.exists() else []
    shutil.rmtree(folder)
    return {
        "accuracy": held_out["eval/rewards/accuracies"],
        "style": sum(map(in_house_style, answers)) / len(rows),
        "right": sum(text == row.answer for text, row in zip(answers, rows, strict=True)) / len(rows),
        "distinct_4": sum(known) / len(known),
        "alarms": sorted({event["name"] for event in told if event["event"] == "alarm"}),
    }


PAGE = """# The defaults

What happens around the defaults? `studies/study_defaults.py` changes one setting at a time, with {seeds}
seeds ({versions}). It trains the demo's tiny Granite hybrid on the demo's pairs with `config/demo.yaml`:
learning rate 1e-3 (fifty times the default), beta 0.1, a tenth of the updates as warm-up.

The table shows means over seeds and half of the 95 % interval. *Held-out accuracy* is measured on pairs.
The other columns describe the greedy answers to 96 held-out questions: shares of these answers, and
their mean distinct-4.

| variant | {heads} | alarms (seeds) |
|{rule}
{rows}
"""


def page(found: dict[str, dict[str, Any]], seeds: int) -> str:
    """The study as a document."""
    lines = []
    for variant in VARIANTS:
        own = [found[f"{variant} {seed}"] for seed in range(seeds)]
        cells = [with_interval([figures[name] for figures in own]) for name in FIGURES]
        names = sorted({name for figures in own for name in figures["alarms"]})
        alarms = ", ".join(f"{name} ({sum(name in f['alarms'] for f in own)})" for name in names)
        lines.append(f"| {variant} | {' | '.join(cells)} | {alarms} |")
    return PAGE.format(
        seeds=seeds,
        versions=", ".join(f"{name} {version(name)}" for name in ("mlx", "mlx-lm", "mlx-dpo")),
        heads=" | ".join(FIGURES.values()),
        rule="---|" * (len(FIGURES) + 2),
        rows="\n".join(lines),
    )


def main() -> None:
    parser = study_options(__doc__, "defaults")
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"), help="a finished demo")
    options = parser.parse_args()
    runs = [(variant, seed) for seed in range(options.seeds) for variant in VARIANTS]
    found = results(options, runs, partial(trained, options.demo, options.work))
    if len(found) < len(runs):
        return
    print(page(found, options.seeds))
    if options.docs:
        (options.docs / "defaults.md").write_text(page(found, options.seeds))


if __name__ == "__main__":
    main()
