"""A fused tiny model of a family, and short figures of what its GGUF file holds."""

import hashlib
import json
from pathlib import Path

import numpy as np

from mlx_dpo.demo.family_models import make_adapter, make_hub_model
from mlx_dpo.export.gguf import GgufContent, gguf_content
from mlx_dpo.export.hub_layout import base_tensors
from mlx_dpo.export.hub_model import Source, read_source

from ..conftest import curated_rows

TEXTS = [f"{r['prompt']} {r['answer']}" for r in curated_rows("base.jsonl")[:60]]
ROWS = [np.random.default_rng(n).integers(10, 400, n).tolist() for n in (40, 25, 90)]
"""Random tokens; the longest row is longer than the window of the tiny Gemma."""


def made(folder: Path, family: str) -> tuple[Path, Path]:
    """The family's base and adapter."""
    base, adapter = folder / family, folder / f"{family}-adapter"
    if not base.exists():
        make_hub_model(base, family, TEXTS)
        make_adapter(base, adapter)
    return base, adapter


def source_of(base: Path, adapter: Path) -> Source:
    """As every export reads it."""
    return read_source(base, base_tensors(base), adapter)


def content_of(source: Source, type: str = "f32") -> GgufContent:
    """What a GGUF file of it holds."""
    return gguf_content(source, type, "tiny")


def figures(content: GgufContent) -> dict:
    """Fields, long ones as a hash, and for every tensor its shape and a sum that depends on every place."""
    fields = {}
    for field in content.fields:
        text = json.dumps(field.value)
        long = len(text) > 100
        fields[field.key] = hashlib.sha256(text.encode()).hexdigest()[:16] if long else field.value
    tensors = {}
    for tensor in content.tensors:
        values = tensor.make().astype(np.float64).ravel()
        mark = float(values @ np.cos(np.arange(values.size)))
        tensors[tensor.name] = [list(tensor.shape), round(mark, 5)]
    return {"architecture": content.architecture, "fields": fields, "tensors": tensors}
