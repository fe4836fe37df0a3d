#!/usr/bin/env python
"""Does an adapter make answers to unrelated prompts more alike? Share of distinct runs of four tokens.

    python studies/other_prompts.py PROMPTS --adapter RUN [RUN ...] [--count 40]

PROMPTS is a JSON list of objects with "instruction" and "input", as PandaLM's test set has them. Answers are
greedy, of up to 256 tokens. Prints a Markdown table; intervals over prompts, drawn 1,000 times.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measure import answers, distinct

from mlx_dpo.models.adapters import load_adapter
from mlx_dpo.models.load import load_model, load_tokenizer
from mlx_dpo.storage.cache import cache_folder

# isort: split
import numpy as np

MODEL = cache_folder() / "models" / "smollm2-135m"
LONGEST, DRAWS = 400, 1000


def prompts(file: Path, count: int) -> list[str]:
    """`count` different prompts of at most LONGEST characters, drawn with seed 0."""
    rows = json.loads(file.read_text())
    texts = ["\n\n".join(filter(None, (row["instruction"], row.get("input")))) for row in rows]
    short = list(dict.fromkeys(text for text in texts if len(text) < LONGEST))
    return [short[i] for i in np.random.default_rng(0).permutation(len(short))[:count]]


def ratio_interval(tokenizer: Any, tuned: Sequence[Any], base: Sequence[Any]) -> tuple[float, float]:
    """95 % interval of the ratio of both shares; a prompt that is drawn twice counts once."""
    rng = np.random.default_rng(1)
    draws = [np.unique(rng.integers(0, len(base), len(base))) for _ in range(DRAWS)]
    ratios = [
        distinct(tokenizer, [tuned[i] for i in d]) / distinct(tokenizer, [base[i] for i in d]) for d in draws
    ]
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--adapter", type=Path, nargs="+", required=True)
    parser.add_argument("--count", type=int, default=40)
    options = parser.parse_args()
    tokenizer, asked = load_tokenizer(MODEL), prompts(options.prompts, options.count)
    base = answers(load_model(MODEL)[0], tokenizer, asked)
    print("| model | distinct-4 | of the base's | 95 % interval | ended |")
    print("|---|---|---|---|---|")
    print(f"| base | {distinct(tokenizer, base):.3f} | | | {sum(ended for _, ended in base)} |")
    for folder in options.adapter:
        model, _ = load_model(MODEL)
        load_adapter(model, folder)
        tuned = answers(model, tokenizer, asked)
        share = distinct(tokenizer, tuned)
        low, high = ratio_interval(tokenizer, tuned, base)
        ratio = share / distinct(tokenizer, base)
        ended = sum(ended for _, ended in tuned)
        print(
            f"| {folder.name} | {share:.3f} | {ratio:.2f} | {low:.2f} to {high:.2f} | {ended} |", flush=True
        )


if __name__ == "__main__":
    main()
