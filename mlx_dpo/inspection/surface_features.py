"""Can surface features alone, without the prompt, tell the chosen answer from the rejected one?

If so, a model may learn only these features, and its margins grow without limit. The test is a logistic
regression on differences of the two answers' features, evaluated on prompts that it was not fitted on.
"""

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ..data.splits import prompt_key
from ..metrics import wilson_interval
from ..records import Preference
from .duplicates import text_hash
from .words import words

FEWEST_PROMPTS = 20
"""Least number of different prompts for this measure."""

_FOLDS = 5
_CHARACTERS, _WORDS, _SHAPES = 1024, 2048, 1024
"""Number of columns for hashes of three-byte runs, of words and pairs of words, and of line shapes."""
_DECAY, _STEPS = 1e-3, 150
_LINE = re.compile(r"[ \t]*(#+|[-*•+>|]|\d+[.)]|```|)")


@dataclass(frozen=True)
class Separability:
    """Share of n pairs in which style alone finds the chosen answer, on prompts not used for fitting.

    `interval`: 95 %, Wilson. Chance gives one half.
    """

    n: int
    accuracy: float
    interval: tuple[float, float]


def separability(texts: Sequence[Preference]) -> Separability | None:
    """Held-out accuracy over five folds, split by prompt; None with fewer than FEWEST_PROMPTS prompts."""
    folds = prompt_folds(texts)
    if len(set(folds.tolist())) < _FOLDS:
        return None
    differences = np.stack([features(text.chosen) - features(text.rejected) for text in texts])
    margins = held_out_margins(differences, folds)
    right = (margins > 0).sum() + (margins == 0).sum() / 2
    return Separability(len(texts), float(right / len(texts)), wilson_interval(round(right), len(texts)))


def prompt_folds(texts: Sequence[Preference]) -> np.ndarray:
    """The fold 0 to 4 of each pair, int (n,): pairs of a prompt share a fold; all 0 if prompts are few."""
    keys = [text_hash(prompt_key(text.prompt)) for text in texts]
    ordered = sorted(set(keys))
    folds = _FOLDS if len(ordered) >= FEWEST_PROMPTS else 1
    fold = {key: number % folds for number, key in enumerate(ordered)}
    return np.array([fold[key] for key in keys], int)


def features(text: str) -> np.ndarray:
    """Surface features of an answer, float32 (4096,), of norm at most 1, so that length does not matter."""
    content = np.frombuffer(text.encode(), np.uint8).astype(np.uint32)
    runs = (content[:-2] << 16 | content[1:-1] << 8 | content[2:]) * np.uint32(2654435761) >> 22
    found = words(text)
    blocks = (
        np.bincount(runs, minlength=_CHARACTERS),
        _hashed([*found, *map(" ".join, pairwise(found))], _WORDS),
        _hashed(_shapes(text, found), _SHAPES),
    )
    logs = [np.log1p(block) for block in blocks]
    return (
        np.concatenate([block / max(1, np.linalg.norm(block)) for block in logs]).astype(np.float32) / 3**0.5
    )


def _hashed(names: Iterable[str], size: int) -> np.ndarray:
    """Count of each column, int (size,)."""
    return np.bincount(np.array([zlib.crc32(name.encode()) % size for name in names], int), minlength=size)


def _shapes(text: str, found: Sequence[str]) -> Iterator[str]:
    """How the answer begins and ends, how its lines begin, and its punctuation."""
    yield f"begins {' '.join(found[:2])}"
    yield f"begins {text[:1]}"
    yield f"ends {text[-1:]}"
    yield f"ends {' '.join(found[-2:])}"
    for line in text.splitlines():
        mark = _LINE.match(line)[1] if line.strip() else "blank"
        yield f"line {'1' if mark[:1].isdigit() else mark}"
    yield from (f"sign {word}" for word in found if not word.isalnum())


def held_out_margins(differences: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Margin of each pair under the weights fitted without its fold: float32 (n,), above 0 if right.

    All folds are fitted together, with a column of weights each, by Nesterov's gradient steps on the mean
    logistic loss with a little decay. Rows (n, D) have norm at most 2, so the curvature is at most 1 + decay.

    Exchanging the answers of all pairs changes the weights' sign and does not change the margins.
    """
    fitted = (folds[:, None] != np.arange(_FOLDS)).astype(np.float32)
    shares = fitted / fitted.sum(axis=0)
    weights = ahead = np.zeros((differences.shape[1], _FOLDS), np.float32)
    for step in range(_STEPS):
        # 1 - sigmoid(z), which does not overflow.
        wrong = (1 - np.tanh(differences @ ahead / 2)) / 2
        slope = _DECAY * ahead - differences.T @ (wrong * shares)
        before, weights = weights, ahead - slope / (1 + _DECAY)
        ahead = weights + np.float32(step / (step + 3)) * (weights - before)
    return (differences @ weights)[np.arange(len(folds)), folds]
