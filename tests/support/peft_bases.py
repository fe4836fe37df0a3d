"""Tiny bases whose weights NumPy makes, and what PEFT computed on them; see tests/golden/golden_peft.py."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_dpo.models.adapters import load_adapter
from mlx_dpo.models.load import load_model

from ..golden.golden_peft import LAST, TOKENS, write_base

GOLDEN_FOLDER = Path(__file__).parents[1] / "golden"
GOLDEN = json.loads((GOLDEN_FOLDER / "peft.json").read_text())
TRAINED = GOLDEN_FOLDER / "peft_adapters"


def base_folder(folder: Path, name: str) -> Path:
    """The base of this family, written once."""
    return (
        folder / name if (folder / name).exists() else write_base(folder / name, name, GOLDEN["shapes"][name])
    )


def log_probs(base: Path, adapter: Path | None = None) -> np.ndarray:
    """Log-probabilities after the last tokens, float32 (LAST, 96)."""
    model, _ = load_model(base)
    if adapter:
        load_adapter(model, adapter)
    logits = model(mx.array([TOKENS]))[0, -LAST:].astype(mx.float32)
    return np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
