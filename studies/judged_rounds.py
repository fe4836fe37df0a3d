#!/usr/bin/env python
"""Two rounds of sampling, judging and training with a small model that judges its own answers.

    python studies/judged_rounds.py --prompts prompts.jsonl --output /tmp/rounds > docs/judged_rounds.md

Each round samples three answers to every prompt from the model with the adapter of the round before, ranks
them by the label probabilities of the base model, and trains on best against worst. Prints a page; the
folder keeps everything, and the same command goes on where it was stopped.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from mlx_dpo.metrics import wilson_interval

ROOT = Path(__file__).resolve().parents[1]


def command(*words: object) -> dict:
    """What a command prints as JSON, and its seconds; stops where the command fails."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "mlx_dpo", *map(str, words)], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"mlx-dpo {' '.join(map(str, words))}\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout) if "--json" in words else {}
    return {**found, "seconds": time.monotonic() - start}


def one_round(
    model: Path, prompts: Path, folder: Path, adapter: Path | None, tokens: int, trained_on: list[Path]
) -> dict:
    """Sample, judge, train and evaluate; the figures of each. No prompt of `trained_on` is held out."""
    given = ["--model", model]
    start = ["--set", f"model.adapter={adapter}"] if adapter else []
    sampled = command(
        *("gen-pairs", *given, *start, "--source", prompts, "--output", folder / "samples", "--samples", 3),
        *("--max-tokens", tokens, "--set", "generate.temperature=0.9", "--json"),
    )
    judged = command(
        *("judge", "--model", model, "--completions", folder / "samples" / "completions.jsonl"),
        *("--output", folder / "judged", "--set", "judge.guard=warn", "--set", "judge.tie_band=0", "--json"),
        *(("--set", f"judge.trained={json.dumps(list(map(str, trained_on)))}") if trained_on else ()),
    )
    run = folder / "run"
    trained = command(
        *("train", *given, *start, "--data", folder / "judged" / "train.jsonl"),
        *("--valid", folder / "judged" / "valid.jsonl", "--output", run),
        *("--set", "training.epochs=1", "--set", "optimizer.learning_rate=5e-6", "--overwrite"),
    )
    return {
        "sampled": sampled,
        "judged": judged,
        "trained": trained,
        "evaluated": command("eval", "--run", run, "--samples", 0, "--json"),
    }


def share(count: float, n: int) -> str:
    low, high = wilson_interval(count, n)
    return f"{count / n:.2f} ({low:.2f} to {high:.2f}, n = {n})" if n else "-"


def rate(found: dict) -> str:
    return share(found["rate"] * found["n"], found["n"])


ROWS = {
    "distinct answers of three": lambda r: f"{r['sampled']['distinct']:.2f}",
    "answers cut off": lambda r: f"{r['sampled']['cut_off']}",
    "comparisons": lambda r: f"{r['judged']['comparisons']}",
    "ties": lambda r: f"{r['judged']['tied_comparisons']}",
    "same verdict in both orders": lambda r: rate(r["judged"]["consistency"]),
    "answer shown first preferred": lambda r: rate(r["judged"]["first_position"]),
    "longer answer preferred": lambda r: rate(r["judged"]["longer_wins"]),
    "pairs, train and held out": lambda r: f"{r['judged']['train']} and {r['judged']['valid']}",
    "held-out preference accuracy": lambda r: share(
        r["evaluated"]["metrics"]["rewards/accuracies"] * r["evaluated"]["pairs"], r["evaluated"]["pairs"]
    ),
    "held-out margin": lambda r: f"{r['evaluated']['metrics']['rewards/margins']:+.4f}",
    "seconds: sampling": lambda r: f"{r['sampled']['seconds']:.0f}",
    "seconds: judging": lambda r: f"{r['judged']['seconds']:.0f}",
    "seconds: training": lambda r: f"{r['trained']['seconds']:.0f}",
}


def page(model: Path, prompts: int, tokens: int, rounds: list[dict]) -> str:
    table = [
        f"| | {' | '.join(f'round {n}' for n in range(1, len(rounds) + 1))} |",
        "|---" * (len(rounds) + 1) + "|",
    ]
    table += [f"| {name} | {' | '.join(of(one) for one in rounds)} |" for name, of in ROWS.items()]
    warnings = sorted({text for one in rounds for text in one["judged"]["warnings"]})
    said = "\n".join(f"- {text}" for text in warnings) or "- nothing"
    return f"""# Two rounds with a judge

`studies/judged_rounds.py`: {model.name} answers {prompts} prompts three times each
(temperature 0.9, at most {tokens} tokens). The same model without an adapter is the judge, by the
probabilities of the letters A and B, in both orders, without a tie band. DPO trains on best against worst for
one epoch at 5e-6. The second round samples from the adapter of the first. One run on a CPU with 2 cores.

{chr(10).join(table)}

`mlx-dpo judge` warned:

{said}

A model of 135 million parameters is no judge: what it prefers says little. The page shows that the path
works from prompts to a second round, and that the tool says when a judge cannot be trusted. Take a larger
judge of another family.
"""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, default=Path.home() / ".cache/mlx_dpo/models/smollm2-135m")
    parser.add_argument("--prompts", type=Path, required=True, help="rows with a prompt, JSONL")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--max-tokens", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=2)
    a = parser.parse_args()
    a.output.mkdir(parents=True, exist_ok=True)
    asked = [json.loads(line)["prompt"] for line in a.prompts.read_text().splitlines()][: a.count]
    prompts = a.output / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in asked))
    rounds, adapter, trained_on = [], None, []
    for number in range(1, a.rounds + 1):
        folder = a.output / f"round-{number}"
        figures = folder / "figures.json"
        if not figures.exists():
            found = one_round(a.model, prompts, folder, adapter, a.max_tokens, trained_on)
            figures.write_text(json.dumps(found, indent=1))
        rounds.append(json.loads(figures.read_text()))
        adapter = folder / "run"
        trained_on = [*trained_on, folder / "judged" / "train.jsonl"]
    print(page(a.model, len(asked), a.max_tokens, rounds), end="")


if __name__ == "__main__":
    main()
