"""Convert published preference data that is on this machine, and count what is lost.

    python scripts/check_formats.py --data ../shared/data

Reads hh-rlhf/harmless-base-test.jsonl.gz (2,312 transcripts) and pandalm/testset-v1.json (999 votes). Prints
for each file its format, its rows and its pairs, and names the rows that make no pair. The exit code is 1 if
other rows than the known ones are lost, and 2 if a file is missing.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

from mlx_dpo.data.own_format import to_pairs
from mlx_dpo.data.row_files import open_rows
from mlx_dpo.data.row_reader import RowReader
from mlx_dpo.errors import DpoError

KNOWN = {
    "hh-rlhf/harmless-base-test.jsonl.gz": {"pairs": 2308, "an answer is empty": 4},
    "pandalm/testset-v1.json": {"pairs": 836, "a tie": 105, "an answer is empty": 52, "wrong-type": 6},
}
"""What each file gives: pairs, rows that make none by reason, and rows that are refused by code."""


def counted(path: Path) -> Counter[str]:
    """Read all rows of a file and print what becomes of them; the counts, as in KNOWN."""
    rows = open_rows(path)
    reader, found, refused = RowReader(rows, to_pairs), Counter(), []
    for line in reader:
        found["pairs"] += len(line.records)
        if line.error:
            found[line.error.code] += 1
            refused.append(f"refused: {line.error.where}: {line.error.what}")
    for reason, (count, _) in reader.left_out.found.items():
        found[reason] = count
    told = [*rows.descriptions(), f"{reader.rows:,} rows, {found['pairs']:,} pairs", *refused]
    print("\n  ".join([*told, *reader.left_out.text(rows.where).splitlines()]))
    return found


def main() -> int:
    """Check all files; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    folder, code = parser.parse_args().data, 0
    for name, known in KNOWN.items():
        if not (folder / name).exists():
            print(f"{folder / name}: missing")
            return 2
        found = counted(folder / name)
        if found != known:
            print(f"  expected {known}, found {dict(found)}")
            code = 1
    return code


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DpoError as error:
        sys.exit(f"Error: {error}")
