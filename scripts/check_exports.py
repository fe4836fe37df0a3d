#!/usr/bin/env python
"""Compare exports of all families with MLX, in the programs that read them: transformers, PEFT, llama.cpp.

    python scripts/check_exports.py                      # tiny models of all families, LoRA and DoRA
    python scripts/check_exports.py --families llama,hybrid --json
    python scripts/check_exports.py --smollm2 ~/.cache/mlx_dpo/models/smollm2-135m [--run RUN]
    python scripts/check_exports.py --write docs/exports.md      # replace the tables of that page

Needs torch, peft, gguf and xllamacpp, and llama.cpp's converter. Where they are missing, the script makes an
environment in ~/.cache/mlx_dpo and goes on there. It prints for each export the largest difference of a
log-probability from MLX over the whole vocabulary, and whether 32 greedy tokens, the tokens of 250 texts
and the chat template are the same. The exit code is 1 if an export in float32 differs by more than 1e-4 nats
(Gemma 3 in llama.cpp: 5e-3), or in anything else, or if one is refused that should be possible.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NEEDS = ("torch", "peft", "gguf", "xllamacpp")
PACKAGES = ("mlx", "mlx-lm", "torch", "transformers", "peft", "gguf", "xllamacpp")
FLOAT32 = (
    "peft",
    "peft, trained there",
    "hf",
    "gguf f32",
    "gguf-lora, our base",
    "gguf-lora, llama.cpp's base",
)
REFUSED = (
    ("gemma2", "", "gguf f32"),
    ("hybrid-moe", "", "peft"),
    ("hybrid-moe", "", "gguf-lora"),
    ("", "dora", "gguf-lora"),
)
"""Family, adapter and export of what is refused, because the program has no such model; "": any."""
FROM, TO = "<!-- scripts/check_exports.py writes from here -->", "<!-- to here -->"


def in_an_environment_with_them() -> None:
    """Go on in an environment that has the programs, which is made if it is not there yet."""
    from mlx_dpo.storage.cache import cache_folder

    python = cache_folder() / "export-programs" / "bin" / "python"
    if Path(sys.executable) == python:
        raise SystemExit(f"{python} lacks one of {', '.join(NEEDS)}; remove that environment and try again")
    if not python.exists():
        print(f"making an environment in {python.parents[1]}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(python.parents[1])], check=True)
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, f"{ROOT}[gguf,prove]"], check=True)
    os.environ["PYTHONPATH"] = str(ROOT)
    os.execv(python, [str(python), *sys.argv])


def cases(options: argparse.Namespace, work: Path) -> Any:
    """Name, kind of adapter, `Case`, and the split for the converter, of each model and adapter."""
    from export_measures import Case

    from mlx_dpo.demo.family_models import CONFIGS, LLAMA3_SPLIT, QWEN_SPLIT, make_adapter, make_hub_model

    splits = {LLAMA3_SPLIT: "dbrx", QWEN_SPLIT: "qwen2"}

    rows = [json.loads(line) for line in (ROOT / "data" / "curated.jsonl").read_text().splitlines()]
    texts = [text for row in rows for text in (row["prompt"], row["answer"])]
    texts = [*hard_texts(), *texts][:250]
    for family in options.families:
        base = make_hub_model(work / family, family, texts)
        for kind in ("lora", "dora"):
            if family == "hybrid-moe" and kind == "dora":
                continue  # mlx_lm has no DoRA on experts
            adapter = make_adapter(base, work / f"{family}-{kind}", kind=kind)
            place = work / f"{family}-{kind}-exports"
            place.mkdir()
            made = Case(base, adapter, place, random_rows(), texts)
            yield family, kind, made, splits[CONFIGS[family][2]]
    if options.smollm2:
        place = work / "smollm2"
        place.mkdir()
        adapter = options.run or make_adapter(options.smollm2, work / "smollm2-lora", 0.01)
        made = Case(options.smollm2, adapter, place, real_rows(options.smollm2, texts), texts)
        yield "SmolLM2-135M", "lora", made, None


def hard_texts() -> list[str]:
    """Texts on which tokenizers differ."""
    from mlx_dpo.export.prove_llama_cpp import DIFFICULT

    return [*DIFFICULT, *(f"{mark} {mark}x{mark * 3}\n" for mark in "!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~")]


def random_rows() -> list[list[int]]:
    """Random tokens; the longest row is longer than the window of the tiny Gemma."""
    import numpy as np

    return [np.random.default_rng(n).integers(10, 400, n).tolist() for n in (40, 25, 90)]


def real_rows(base: Path, texts: list[str]) -> list[list[int]]:
    """Tokens of four answers."""
    from mlx_dpo.models.load import load_tokenizer

    tokenizer = load_tokenizer(base)
    return [tokenizer.encode(text)[:120] for text in texts[-8::2]]


def wrong(name: str, row: dict[str, Any]) -> list[str]:
    """What is not as it should be in a row."""
    from mlx_dpo.export.predictions import EXACT, EXACT_GEMMA

    if "refused" in row:
        here = (name, row["adapter"], row["kind"])
        expected = any(all(own in ("", part) for own, part in zip(one, here, strict=True)) for one in REFUSED)
        return [] if expected else [f"refused: {row['refused']}"]
    found = []
    limit = EXACT_GEMMA if name == "gemma3" and row["kind"].startswith("gguf") else EXACT
    difference = row.get("difference", float("nan"))
    if row["kind"] in FLOAT32 and not difference <= limit:
        found.append(f"differs by {difference:.1e} nats, more than {limit:g}")
    if row["kind"] in FLOAT32 and row.get("lead", 0) > 2 * limit:  # below, both tokens are equally likely
        found.append(f"only the first {row['greedy']} greedy tokens are the same")
    if row.get("strings", row["texts"]) < row["texts"]:
        found.append(f"{row['texts'] - row['strings']} texts have other tokens")
    if row.get("template") is False:
        found.append("the chat template renders something else")
    if other := row.get("tensors", 0) - row.get("same bits", 0) - row.get("last place", 0):
        found.append(f"{other} of {row['tensors']} tensors have other bits")
    if row.get("other fields"):
        found.append(f"other fields: {', '.join(row['other fields'])}")
    return found


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown: one line for each model and kind of adapter, one column for each export."""
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    told = [["", *kinds], ["---"] * (len(kinds) + 1)]
    for name, adapter in dict.fromkeys((row["family"], row["adapter"]) for row in rows):
        own = {r["kind"]: r for r in rows if (r["family"], r["adapter"]) == (name, adapter)}
        shown = "LoRA" if adapter == "lora" else "DoRA"
        told.append([f"{name}, {shown}", *(cell(own[kind]) if kind in own else "" for kind in kinds)])
    return [f"| {' | '.join(line)} |" for line in told]


def cell(row: dict[str, Any]) -> str:
    """A row's figures in a few words."""
    if "refused" in row:
        return "refused"
    if "difference" not in row:
        return f"{row['same bits']} of {row['tensors']}"
    shown = float(f"{row['difference']:.1e}")
    # In float32, another token is as good where the two are equally likely.
    tied = row["kind"] in FLOAT32 and row.get("lead", 0) < 2 * row["difference"]
    return f"{shown:g}" + ("" if tied or row.get("greedy", 32) == 32 else f" ({row['greedy']})")


def section(found: dict[str, Any]) -> str:
    """Everything between the two marks of the page."""
    rows, texts = found["rows"], {row["texts"] for row in found["rows"]}
    compared = [row for row in rows if "strings" in row]
    same = all(row["strings"] == row["texts"] and row["template"] for row in compared)
    strings = "the same tokens for all" if same else "other tokens or another template for some of"
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    bits = [row for row in rows if "tensors" in row]
    return "\n".join(
        [
            "",
            *table(rows),
            "",
            f"In {len(compared)} exports the programs have {strings} {max(texts)} texts, and render the same "
            f"chat. {sum(r['same bits'] for r in bits):,} of {sum(r['tensors'] for r in bits):,} tensors "
            f"that have to keep their bits do; {sum(r.get('last place', 0) for r in bits)} more differ in "
            "the last place.",
            "",
            f"Versions: {versions}; {found['converter']}.",
        ]
    )


def write_section(page: Path, found: dict[str, Any]) -> None:
    """Replace what is between the marks of a page."""
    before, _, rest = page.read_text().partition(FROM)
    page.write_text(f"{before}{FROM}\n{section(found)}\n\n{TO}{rest.partition(TO)[2]}")


def main() -> int:
    """Measure all; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--families", type=lambda text: text.split(","), metavar="A,B")
    parser.add_argument("--smollm2", type=Path, metavar="FOLDER", help="scripts/get_smollm2.py makes it")
    parser.add_argument("--run", type=Path, help="a run on SmolLM2; by default its adapter is random")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="replace the block of this page")
    options = parser.parse_args()
    if any(find_spec(name) is None for name in NEEDS):
        in_an_environment_with_them()

    import mlx_dpo  # noqa: F401  (loads the fast BLAS, so it comes before MLX)

    # isort: split
    from export_measures import measures
    from llama_cpp_converter import PACKAGE, converter_folder

    from mlx_dpo.demo.family_models import CONFIGS
    from mlx_dpo.storage.cache import cache_folder

    options.families = [one for one in options.families or CONFIGS if one]
    if other := sorted({*options.families} - {*CONFIGS}):
        parser.error(f"no such family: {other[0]}; there are {', '.join(CONFIGS)}")
    converter = converter_folder(cache_folder())
    found = {
        "versions": {name: version(name) for name in PACKAGES},
        "converter": f"llama.cpp's converter of {PACKAGE}",
        "rows": [],
    }
    code = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, kind, case, split in cases(options, Path(folder)):
            for row in measures(case, converter, split):
                row = {"family": name, "adapter": kind, "texts": len(case.texts), **row}
                found["rows"].append(row)
                print(f"{name}, {kind}, {row['kind']}: {cell(row)}", file=sys.stderr, flush=True)
                for what in wrong(name, row):
                    print(f"  wrong: {what}", file=sys.stderr)
                    code = 1
    if options.write:
        write_section(options.write, found)
    print(json.dumps(found, indent=1) if options.json else "\n".join(table(found["rows"])))
    return code


if __name__ == "__main__":
    sys.exit(main())
