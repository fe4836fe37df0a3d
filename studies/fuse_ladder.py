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
import mlx.core as mx
from measure import answers

from mlx_dpo.data.row_index import index_rows
from mlx_dpo.demo.tiny_models import make_model
from mlx_dpo.errors import DpoError
from mlx_dpo.export.fuse import fuse_run
from mlx_dpo.export.likeness import few_rows
from mlx_dpo.export.verdict import figure, percent, read_report, size
from mlx_dpo.jobs.fuse import fuse_folder
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
ANY = 1e9
"""A KL ratio that everything passes, so that rungs above the gate are measured too."""
RUNGS = {"4": ANY, "6": ANY, "8": ANY, "mixed": 0.1, "plain": ANY, "auto": 0.1}
FROM, TO = "<!-- studies/fuse_ladder.py writes from here -->", "<!-- to here -->"


def rungs(work, fuse, answer=None):
    """Reports by precision; with the answer of each fused model if `answer(folder)` gives it."""
    found = {}
    for name, most in RUNGS.items():
        folder = work / name
        try:
            fuse(folder, name, most)
            report = read_report(folder)
            report.pop("layers")
            found[name] = report | ({"answer": answer(folder)} if answer else {})
        except DpoError as refused:
            found[name] = {"refused": refused.what}
        shutil.rmtree(folder, ignore_errors=True)
        mx.clear_cache()
    return found


def answered(folder, adapter=None):
    """The greedy answer to QUESTION."""
    model, _ = load_model(folder)
    if adapter:
        load_adapter(model, adapter)
    return answers(model, load_tokenizer(folder), [QUESTION], 64)[0][0]


def real(work, run, base, original=None):
    """A real adapter on a real model."""

    def fuse(folder, precision, most):
        fuse_folder(run, folder, str(base), precision=precision, max_kl_ratio=most, original=original)

    found = rungs(work, fuse, answered)
    return {"base": answered(base), "adapter": answered(base, run), "rungs": found}


def tiny(work, architecture, share):
    """A planted adapter on a random model of 4 bits."""
    base, run = work / f"{architecture}-4bit", work / f"{architecture}-{share}"
    if not base.exists():
        texts = [json.loads(line)["answer"] for line in CURATED.read_text().splitlines()]
        make_model(base, architecture, texts, vocab=512, bits=4)
    shutil.rmtree(run, ignore_errors=True)
    planted(base, run, share)
    rows = few_rows(index_rows(CURATED, answers=True), load_tokenizer(base), 512)

    def fuse(folder, precision, most):
        fuse_run(str(base), run, folder, precision=precision, rows=rows, max_kl_ratio=most)

    return {"rungs": rungs(work, fuse)}


def table(case):
    """The rungs of one case as a Markdown table."""
    lines = [
        "| precision | bits | size | KL ratio | top-1 | kept | noise | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, report in case["rungs"].items():
        if name == "auto":
            continue
        if "refused" in report:
            lines.append(f"| {name} | | | | | | | nothing passes |")
            continue
        gate = "passes" if report["kl_ratio"] <= 0.1 else "refused"
        cells = [f"{report['bits']:.1f}", size(report["bytes"]), figure(report["kl_ratio"])]
        cells += [percent(report["top_1"]), figure(report["kept"]), figure(report["noise"]), gate]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    auto = case["rungs"]["auto"]
    tried = [rung["precision"] for rung in auto.get("ladder", [])]
    chose = (
        f"`auto` tried {', '.join(tried)} and wrote {auto['precision']}" if tried else "`auto` wrote nothing"
    )
    distance = next(r["kl_adapter_base"] for r in case["rungs"].values() if "refused" not in r)
    return [*lines, "", f"{chose}. KL(adapter || base) is {figure(distance)} nats a token."]


def section(found):
    """Everything between the two marks."""
    lines = []
    for name, case in found.items():
        lines += ["", f"**{name}**", "", *table(case)]
        if "adapter" in case:
            told = {"base": case["base"], "adapter": case["adapter"]}
            told |= {
                f"fused, {n}": r["answer"] for n, r in case["rungs"].items() if "answer" in r and n != "auto"
            }
            lines += ["", f"Asked: {QUESTION}", "", "```text"]
            lines += [f"{who:<13} {' '.join(text.split())}" for who, text in told.items()] + ["```"]
    return "\n".join(lines)


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
        f"Tiny {kind} of 4 bits, planted change of {share:.1%}": lambda k=kind, s=share: tiny(
            options.work, k, s
        )
        for kind in ("llama", "granite")
        for share in SHARES
    }
    cases |= {
        "SmolLM2 of 4 bits, SFT": lambda: real(options.work, options.sft, four),
        "SmolLM2 of 4 bits, SFT, `--base` the float32 model": lambda: real(
            options.work, options.sft, four, str(SMOLLM2)
        ),
        "SmolLM2 in float32, SFT": lambda: real(options.work, options.sft, SMOLLM2),
        "SmolLM2 of 4 bits, SFT, then DPO": lambda: real(options.work, options.dpo, four),
    }
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name, make in cases.items():
        if name not in found:
            print(name, file=sys.stderr)
            found[name] = make()
            write_text(RESULTS, json.dumps(found, indent=1) + "\n")
    if options.docs:
        page = options.docs / "exports.md"
        before, _, rest = page.read_text().partition(FROM)
        text = section({name: found[name] for name in cases})
        write_text(page, f"{before}{FROM}\n{text}\n\n{TO}{rest.partition(TO)[2]}")


if __name__ == "__main__":
    main()
