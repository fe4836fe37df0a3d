"""The reference's log-probabilities, computed once and cached on disk."""

import hashlib
import json
import zlib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from .. import __version__
from ..console import plural, progress, say
from ..data.pair_store import PairStore
from ..forward.mlx_attention import scoring_attention
from ..forward.pair_logps import Forward
from ..forward.scoring import batch_scores
from ..machine.interrupt import tell
from ..models.fingerprint import model_and_adapter_hashes
from ..storage.cache import alone, entry_folder, find, keep, remove, unwritable_cache
from ..storage.reading import open_plain

_KIND, _SCORES = "reference", "scores"
_VERSION = 1
"""Raise this number when the same model and tokens get other scores, or the file format changes."""

_RECORD = np.dtype([("scores", "<f4", 2), ("check", "<u4")])
"""One pair of an unfinished pass: its scores, and a CRC-32 of its number and its scores."""


class Reference(NamedTuple):
    """Scores of all pairs, float32 (n, 2) nats, chosen and rejected; how many come from an earlier run."""

    scores: np.ndarray
    found: int


def reference_key(
    policy: nn.Module, base: Path, adapter: Path | str | None, pairs: PairStore, forward: Forward
) -> dict[str, Any]:
    """Everything on which the reference's scores depend, and nothing else.

    So runs that differ in seed, learning rate, loss, beta, rank or batches share one reference.

    Args:
        policy: the model before its first update, with its adapter.
        base: the base model's folder; every byte of its weights counts.
        adapter: the adapter that the run starts from, if any.
    """
    return {
        **model_and_adapter_hashes(base, adapter),
        "tokens": pairs.content,
        **{name: pairs.key[name] for name in ("tokenizer", "template", "max_length")},
        "forward": forward.name,
        "precision": precision_hash(policy),
        "attention": scoring_attention(),
        "device": str(mx.default_device().type).rpartition(".")[2],
        **{name: version(name) for name in ("mlx", "mlx-lm")},
        "mlx_dpo": __version__,
        "version": _VERSION,
    }


def precision_hash(model: nn.Module) -> str:
    """16 hex digits that change if the untrained model computes differently: dtypes, DoRA's magnitudes.

    The low-rank parts of an adapter are left out: before the first update they add exactly 0.
    """
    arrays = {
        name.replace(".linear.", "."): [str(value.dtype), value.shape]
        for name, value in tree_flatten(model.parameters())
        if name.rpartition(".")[2] not in ("lora_a", "lora_b")
    }
    return hashlib.sha256(json.dumps(arrays, sort_keys=True).encode()).hexdigest()[:16]


def reference_scores(
    policy: nn.Module, pairs: PairStore, forward: Forward, key: dict[str, Any], label: str
) -> Reference:
    """Scores of the present policy: from the cache, or computed and cached; prints which.

    Every pair is scored in its own batch, so that a score does not depend on other pairs, their order or the
    size of batches. Each score is written at once: a pass that was stopped can continue.

    Raises:
        DpoError: the cache cannot be written.
        KeyboardInterrupt: all scores so far are written.
    """
    what, count = f"reference, {label}", len(pairs)
    entry = find(_KIND, key, what)
    if entry is None:
        with alone(_KIND, key, what):
            entry = find(_KIND, key, what)
            if entry is None:
                return _scored(policy, pairs, forward, key, what)
    say(f"{what}: {plural(count, 'pair')} from the cache, without a forward pass")
    return Reference(np.fromfile(entry.folder / _SCORES, "<f4").reshape(count, 2), count)


def forget_reference(key: dict[str, Any]) -> None:
    """Remove the cache entry of `key`, so that it is computed again."""
    remove(_KIND, key)
    _partial(key).unlink(missing_ok=True)


def _scored(
    policy: nn.Module, pairs: PairStore, forward: Forward, key: dict[str, Any], what: str
) -> Reference:
    count, partial = len(pairs), _partial(key)
    done = _whole_records(partial)[:count]
    scores = np.zeros((count, 2), np.float32)
    scores[: len(done)] = done
    singles = ([row] for row in range(len(done), count))
    try:
        with open(partial, "r+b" if partial.exists() else "w+b", buffering=0) as file:
            file.truncate(len(done) * _RECORD.itemsize)
            file.seek(0, 2)
            with progress(what, count, "pairs", len(done)) as advance:
                for (row,), scored in batch_scores(policy, pairs, forward, singles):
                    scores[row] = scored[0]
                    file.write(_record(row, scores[row]))
                    advance(1)
    except OSError as error:
        raise unwritable_cache(partial, error) from None
    except KeyboardInterrupt as stop:
        tell(stop, f"{what}: interrupted; run the same command again to continue")
        raise
    earlier = f", {len(done):,} of them by an earlier run" if len(done) else ""
    say(f"{what}: {plural(count, 'pair')} scored{earlier}")
    if np.isfinite(scores).all():  # otherwise the start-up checks report the pair
        keep(_KIND, key, _writer(scores))
        partial.unlink()
    return Reference(scores, len(done))


def _writer(scores: np.ndarray) -> Callable[[Path], dict[str, Any]]:
    def write(folder: Path) -> dict[str, Any]:
        scores.astype("<f4").tofile(folder / _SCORES)
        return {"pairs": len(scores)}

    return write


def _partial(key: dict[str, Any]) -> Path:
    return entry_folder(_KIND, key).with_suffix(".partial")


def _record(row: int, scores: np.ndarray) -> bytes:
    content = scores.astype("<f4").tobytes()
    return content + zlib.crc32(content, row).to_bytes(4, "little")


def _whole_records(path: Path) -> np.ndarray:
    """Scores (k, 2) of the first k pairs, up to the first record that is damaged or not finite."""
    records = np.empty(0, _RECORD)
    try:
        with open_plain(path) as file:
            content = file.read()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise unwritable_cache(path, error) from None
    else:
        records = np.frombuffer(content[: len(content) // _RECORD.itemsize * _RECORD.itemsize], _RECORD)
    for row, (scores, check) in enumerate(records):
        if zlib.crc32(scores.tobytes(), row) != check or not np.isfinite(scores).all():
            return records["scores"][:row]
    return records["scores"]
