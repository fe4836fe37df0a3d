#!/usr/bin/env python
"""What transformers on torch and llama.cpp predict with exports of tiny models, for test_gguf_golden.py.

    python -m venv consumers
    consumers/bin/pip install -e . torch==2.13.0 gguf==0.19.0 xllamacpp==2026.10.11549
    consumers/bin/python -m tests.golden.golden_exports tests/golden/exports.json

Each family is exported in the Hub's layout and as GGUF in float32, and both are proved. For three rows of
tokens the log-probabilities of the first 40 entries of the vocabulary are stored, with figures of the file's
content.
"""

import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from mlx_dpo.demo.family_models import CONFIGS, WITHOUT_GGUF
from mlx_dpo.export.gguf import export_gguf
from mlx_dpo.export.hf import export_hf
from mlx_dpo.export.prove_llama_cpp import llama_cpp, prove_llama_cpp
from mlx_dpo.export.prove_transformers import prove_transformers, transformers_predictions

from ..support.export_content import ROWS, content_of, figures, made, source_of

ENTRIES = 40


def short(logps) -> list[list[float]]:
    return [[round(float(value), 7) for value in row[:ENTRIES]] for row in logps]


def in_llama_cpp(folder: Path, family: str) -> dict:
    """What llama.cpp predicts, and figures of the file."""
    base, adapter = made(folder, family)
    file = export_gguf(
        str(base),
        adapter,
        folder / f"{family}-gguf",
        "f32",
        None,
        lambda f, s: print(prove_llama_cpp(f, s, "f32", ROWS)),
    )
    source = source_of(base, adapter)
    with llama_cpp(file, 256) as server:
        there = [server.after(row, source.config["vocab_size"]) for row in ROWS]
    return {"llama.cpp": short(there), **figures(content_of(source))}


def main(output: str) -> None:
    packages = ("torch", "transformers", "gguf", "xllamacpp", "mlx", "mlx-lm")
    stored = {"versions": {name: version(name) for name in packages}, "entries": ENTRIES, "families": {}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for family in CONFIGS:
            base, adapter = made(folder, family)
            hub = export_hf(
                str(base),
                adapter,
                folder / f"{family}-hf",
                None,
                lambda f, s: print(prove_transformers(f, s, ROWS)),
            )
            stored["families"][family] = {"torch": short(transformers_predictions(hub, ROWS).logps)}
            if family not in WITHOUT_GGUF:
                stored["families"][family] |= in_llama_cpp(folder, family)
            print(family, flush=True)
    Path(output).write_text(json.dumps(stored) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
