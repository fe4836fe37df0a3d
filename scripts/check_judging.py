"""Check the parsing and aggregation of verdicts against published figures, on stored replies of real judges.

    python scripts/check_judging.py --data ../shared/data

LLMBar (Zeng et al. 2024, arXiv:2310.07641): GPT-4 and ChatGPT on pairs with an objectively better answer, in
both orders. PandaLM (Wang et al. 2024, arXiv:2306.05087): GPT-3.5 on pairs with three human votes. Needs
neither a model nor the network. Exits with 1 if a figure differs.
"""

import argparse
import json
import re
import sys
from collections import Counter
from pathlib import Path

from mlx_dpo.judges.agreement import agreement
from mlx_dpo.judges.verdicts import FIRST, SECOND, TIE, compared, consistency, read_written, share

LLMBAR = {
    ("natural", "gpt-4"): ("93.5", "92", "97"),
    ("natural", "chatgpt"): ("79", "63", "68"),
    ("neighbor", "gpt-4"): ("64.2", "59", "90"),
    ("neighbor", "chatgpt"): ("17.9", "4.5", "73"),
}
"""Mean of both orders, right in both, same in both; in percent, as printed."""
PANDALM = ("25", "71.6")
"""Unreadable replies, and agreement of the others with the majority of the human votes in percent."""


def llmbar_reading(completion):
    """A reply such as "Output (a)", in the form that a judge of ours is asked for."""
    text, finish_reason = completion
    named = re.fullmatch(r"Output \(([ab])\)\.?", text.strip())
    verdict = named[1].upper() if named else text
    return read_written(json.dumps({"reason": "", "verdict": verdict}), finish_reason)


def llmbar(folder, judge):
    """Percentages of a judge on one set: mean of both orders, right in both, same in both."""
    rows = json.loads((folder / f"{judge}-Vanilla_NoRules.json").read_text())
    comparisons, right = [], []
    for row in rows:
        (result,) = row["results"]
        forward, swapped = (
            llmbar_reading(result[f"swap = {turned}"]["completion"]) for turned in (False, True)
        )
        comparisons.append(compared(row["output_1"], row["output_2"], forward, swapped))
        better = "AB" if row["label"] == 1 else "BA"
        right += [forward.verdict == better[0], swapped.verdict == better[1]]
    both = share(
        c.outcome == (FIRST if row["label"] == 1 else SECOND)
        for c, row in zip(comparisons, rows, strict=True)
    )
    return [100 * one.rate for one in (share(right), both, consistency(comparisons))]


def pandalm(folder):
    """(unreadable replies, agreement of the others with the majority of the human votes)."""
    votes = {row["idx"]: row for row in json.loads((folder / "testset-v1.json").read_text())}
    verdicts, pairs = {"1": "A", "2": "B", "Tie": TIE}, []
    outcomes = {"A": FIRST, "B": SECOND, TIE: TIE}
    for reply in json.loads((folder / "gpt-3.5-turbo-testset-v1.json").read_text()):
        form = {
            "reason": reply["gpt_reason"] or "",
            "verdict": verdicts.get(reply["gpt_result"], reply["gpt_result"]),
        }
        reading = read_written(json.dumps(form), "stop")
        row = votes[reply["idx"]]
        (majority, count), *_ = Counter(row[f"annotator{n}"] for n in (1, 2, 3)).most_common()
        person = {1: FIRST, 2: SECOND, 0: TIE}[majority] if count > 1 else TIE
        pairs.append((outcomes.get(reading.verdict), person))
    readable = [pair for pair in pairs if pair[0]]
    return len(pairs) - len(readable), agreement(readable)


def printed(value, like):
    """The value with as many decimals as the published figure."""
    return f"{value:.{len(like.partition('.')[2])}f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with llmbar/ and pandalm/")
    data = parser.parse_args().data
    if missing := [name for name in ("llmbar", "pandalm") if not (data / name).is_dir()]:
        sys.exit(f"{data} has no folder {missing[0]}")
    wrong = 0
    print("LLMBar                 mean of orders / right in both / same in both, % (published)")
    for (name, judge), published in LLMBAR.items():
        found = [printed(v, p) for v, p in zip(llmbar(data / "llmbar" / name, judge), published, strict=True)]
        wrong += tuple(found) != published
        print(f"{name:10}{judge:12} {' / '.join(found)}   ({' / '.join(published)})")
    unreadable, told = pandalm(data / "pandalm")
    found = (str(unreadable), printed(100 * told.same / told.n, PANDALM[1]))
    wrong += found != PANDALM
    low, high = told.kappa_interval
    print("\nPandaLM, GPT-3.5       unreadable / agreement with the human majority, % (published)")
    print(f"{'':22} {' / '.join(found)}   ({' / '.join(PANDALM)})")
    print(f"{'':22} Cohen's kappa {told.kappa:.3f}, 95 % interval {low:.3f} to {high:.3f}, n = {told.n}")
    sys.exit(wrong and f"{wrong} figures differ")


if __name__ == "__main__":
    main()
