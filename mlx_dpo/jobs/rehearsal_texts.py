"""The texts that keep a policy close to its starting model: read from the cache, or made and cached."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from .. import __version__
from ..config import RunConfig
from ..console import plural, progress, say
from ..data.pair_store import PairStore
from ..errors import DpoError
from ..models.fingerprint import model_and_adapter_hashes
from ..models.unprompted_texts import own_texts
from ..randomness import random_untouched
from ..storage.cache import Entry, kept
from ..training.reference import precision_hash
from ..training.rehearsal import Rehearsal, Rehearsed, rehearsed

_VERSION = 1
"""Raise this number when the same model would write other texts, or their file format changes."""
TEXTS, _TOGETHER = 96, 16
"""Number of texts of a run, and of one cache entry: a killed run loses at most one entry."""
_FILE, _LABEL = "texts.npz", "rehearsal"


def rehearsal(
    policy: nn.Module, base: Path, tokenizer: Any, pairs: PairStore, config: RunConfig, weight: float
) -> Rehearsal | None:
    """Texts that the present policy writes, with its log-probabilities; None if their weight is 0.

    Args:
        policy: before its first update.
        pairs: of the run; their key identifies tokenizer and template.
        weight: of the divergence on these texts, which is added to the loss.

    Raises:
        DpoError: the model wrote nothing, or the cache cannot be written.
    """
    if not weight:
        return None
    key = {
        **model_and_adapter_hashes(base, config.model.adapter),
        **{name: pairs.key[name] for name in ("tokenizer", "template", "rendered")},
        "precision": precision_hash(policy),
        "device": str(mx.default_device().type).rpartition(".")[2],
        **{name: version(name) for name in ("mlx", "mlx-lm", "transformers", "tokenizers")},
        "mlx_dpo": __version__,
        "version": _VERSION,
    }
    texts: list[Rehearsed] = []
    with random_untouched(), progress(_LABEL, TEXTS, "texts") as advance:
        for number in range(TEXTS // _TOGETHER):
            texts += _read(
                kept("rehearsal", {**key, "part": number}, _writer(policy, tokenizer, number), _LABEL)
            )
            advance(_TOGETHER)
    if not texts:
        raise DpoError(
            "the model wrote no text for the rehearsal",
            where=config.model.path,
            hint="set training.rehearsal=0 to train without it",
        )
    places = sum(len(text.ids) for text in texts)
    written = f"{plural(len(texts), 'text')} that the model wrote, {plural(places, 'token')}"
    say(f"rehearsal: {written} (training.rehearsal=0 turns this off)")
    return Rehearsal(texts, weight)


def _writer(policy: nn.Module, tokenizer: Any, number: int):
    def write(folder: Path) -> dict[str, Any]:
        texts = [rehearsed(policy, text) for text in own_texts(policy, tokenizer, _TOGETHER, seed=2 * number)]
        arrays = {
            f"{i}.{name}": value for i, text in enumerate(texts) for name, value in text._asdict().items()
        }
        np.savez(folder / _FILE, **arrays)
        return {"texts": len(texts)}

    return write


def _read(entry: Entry) -> list[Rehearsed]:
    with np.load(entry.folder / _FILE) as arrays:
        return [
            Rehearsed(
                arrays[f"{i}.tokens"], int(arrays[f"{i}.start"]), arrays[f"{i}.ids"], arrays[f"{i}.logps"]
            )
            for i in range(entry.facts["texts"])
        ]
