#!/usr/bin/env python
"""How like the adapter is a fused model at each precision? Writes the tables of "Fusing" in docs/exports.md.

    PYTHONPATH=. python studies/fuse_ladder.py --work runs/fuse-ladder --sft RUN --dpo RUN --docs docs

RUN is a run of SmolLM2-135M-Instruct by studies/real_model.py. The tiny models are random, with adapters that
change every linear layer by a planned share of its norm. Finished figures lie in
studies/results/fuse-ladder.json and are not made again.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import mlx_dpo  # noqa: F401  (loads the fast BLAS, so it comes before MLX)

# isort: split
from measure import answers

from mlx_dpo.data.row_index import index_rows
from mlx_dpo.demo.tiny_models import make_model
from mlx_dpo.export.fuse import prepared
from mlx_dpo.export.fuse_report import figure, percent, size, table_row
from mlx_dpo.export.fused_model import fused_weights
from mlx_dpo.export.ladder import Measured, climb
from mlx_dpo.export.likeness import few_rows
from mlx_dpo.jobs.open_run import open_run
from mlx_dpo.models.adapters import load_adapter
from mlx_dpo.models.load import load_model, load_tokenizer
from mlx_dpo.storage.cache import cache_folder
from mlx_dpo.storage.files import write_text
from tests.support.planted import planted

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "studies" / "results" / "fuse-ladder.json"
CURATED = ROOT / "data" / "curated.jsonl"
SMOLLM2 = cache_folder() / "models" / "smollm2-135m"
QUESTION = "How do I get a stain off a clay cup?"
SHARES = (0.005, 0.02, 0.05, 0.14)
MOST = 0.1
"""The KL ratio of the gate."""
FROM, TO = "<!-- studies/fuse_ladder.py writes from here -->", "<!-- to here -->"


def rungs(base, adapter, rows, answer=None, original=None):
    """What `auto` measures, then the other precisions; with the answer of each fused model, if asked for."""
    ladder, yardstick = prepared(base, original, adapter, "auto", rows)
    found = []

    def build(rung):
        built = fused_weights(original or base, adapter, rung.grids)[:2]
        found.append({"answer": answer(built[0])} if answer else {})
        return built

    def tell(measured):
        print(table_row(measured, MOST), file=sys.stderr, flush=True)
        rung, likeness = measured
        found[-1] |= {"precision": rung.name, "bits": rung.bits, "bytes": rung.bytes}
        found[-1] |= {
            "kl_ratio": likeness.ratio,
            "top_1": likeness.top_1,
            "kl_adapter_base": likeness.to_base,
        }
        found[-1] |= {"kept": rung.kept.fraction, "noise": rung.kept.noise}

    climb(ladder, "auto", build, yardstick, MOST, tell)
    auto = len(found)
    for rung in map(ladder.uniform, (4, 6, 8, None)):
        if rung.name not in [one["precision"] for one in found]:
            tell(Measured(rung, yardstick.likeness(build(rung)[0])))
    tried, others = found[:auto], found[auto:]
    return {
        "auto": [one["precision"] for one in tried],
        "rungs": sorted(tried + others, key=lambda one: one["bytes"]),
    }


def real(run, base, original=None, ask=True):
    """A real adapter on a real model, compared on its held-out rows; and asked QUESTION."""
    tokenizer = load_tokenizer(base)

    def answer(model):
        return answers(model, tokenizer, [QUESTION], 64)[0][0]

    config = open_run(run, str(base))
    rows = few_rows(
        index_rows(config.data.valid, answers=config.loss.answers_only), tokenizer, config.data.max_length
    )
    told = {}
    if ask:
        model, _ = load_model(base)
        told["base"] = answer(model)
        load_adapter(model, run)
        told["adapter"] = answer(model)
    return told | rungs(base, run, rows, answer if ask else None, original)


def tiny(work, architecture, share):
    """A planted adapter on a random model of 4 bits."""
    base, run = work / f"{architecture}-4bit", work / f"{architecture}-{share}"
    if not base.exists():
        texts = [json.loads(line)["answer"] for line in CURATED.read_text().splitlines()]
        make_model(base, architecture, texts, vocab=512, bits=4)
    shutil.rmtree(run, ignore_errors=True)
    planted(base, run, share)
    return rungs(base, run, few_rows(index_rows(CURATED, answers=True), load_tokenizer(base), 512))


def cells(case, one):
    """A rung's cells of a table."""
    gate = "passes" if one["kl_ratio"] <= MOST else "refused"
    gate += ", written by `auto`" if one["precision"] == case["auto"][-1] and gate == "passes" else ""
    told = [one["precision"], f"{one['bits']:.1f}", size(one["bytes"]), figure(one["kl_ratio"])]
    return [*told, percent(one["top_1"]), figure(one["kept"]), figure(one["noise"]), gate]


def table(cases):
    """Markdown: the rungs of all these cases, each with its name in the first column."""
    head = ["", "precision", "bits", "size", "KL ratio", "top-1", "kept", "noise", "at 0.1"]
    rows = [head, ["---"] * len(head)]
    for name, case in cases.items():
        rows += [[name, *cells(case, one)] for one in case["rungs"]]
    return [f"| {' | '.join(row)} |" for row in rows]


def section(found):
    """Everything between the two marks."""
    planted_ones = {name: case for name, case in found.items() if name.startswith("Tiny")}
    trained_ones = {name: case for name, case in found.items() if name not in planted_ones}
    lines = ["", "**Planted changes, base of 4 bits**", "", *table(planted_ones)]
    lines += ["", "**Trained changes: SmolLM2-135M-Instruct**", "", *table(trained_ones)]
    lines.append("")
    for name, case in found.items():
        distance = figure(case["rungs"][0]["kl_adapter_base"])
        lines += [
            f"- {name}: KL(adapter || base) {distance} nats a token; `auto` tried {', '.join(case['auto'])}."
        ]
    for name, case in trained_ones.items():
        if "adapter" in case:
            told = {"base": case["base"], "adapter": case["adapter"]}
            told |= {f"fused, {one['precision']}": one["answer"] for one in case["rungs"]}
            lines += ["", f"{name}, asked: {QUESTION}", "", "```text"]
            lines += [f"{who:<13} {' '.join(text.split())}" for who, text in told.items()] + ["```"]
    return "\n".join(lines)


def write_section(page, found):
    """Replace what is between the marks of a page."""
    before, _, rest = page.read_text().partition(FROM)
    write_text(page, f"{before}{FROM}\n{section(found)}\n\n{TO}{rest.partition(TO)[2]}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--sft", type=Path, required=True, help="a run of mlx-dpo sft on SmolLM2")
    parser.add_argument("--dpo", type=Path, required=True, help="a run of mlx-dpo train after it")
    parser.add_argument("--docs", type=Path, help="write the tables into exports.md here")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    four = SMOLLM2.with_name(f"{SMOLLM2.name}-4bit")
    cases = {
        f"Tiny {kind}, {share:.1%}": lambda k=kind, s=share: tiny(options.work, k, s)
        for kind in ("llama", "granite")
        for share in SHARES
    }
    cases |= {
        "SmolLM2 of 4 bits, SFT": lambda: real(options.sft, four),
        "SmolLM2 in float32, SFT": lambda: real(options.sft, SMOLLM2),
        "SmolLM2 of 4 bits, SFT, then DPO": lambda: real(options.dpo, four, ask=False),
        "SmolLM2 of 4 bits, SFT, `--base` the float32 model": lambda: real(
            options.sft, four, SMOLLM2, ask=False
        ),
    }
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name, make in cases.items():
        if name not in found:
            print(name, file=sys.stderr)
            found[name] = make()
            write_text(RESULTS, json.dumps(found, indent=1) + "\n")
        if options.docs:
            write_section(options.docs / "exports.md", {one: found[one] for one in cases if one in found})


if __name__ == "__main__":
    main()
