"""Tokens on which an export is compared with the model that it was made from."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..console import say
from ..data.row_files import Source
from ..data.row_index import index_rows
from ..data.tokenize import RowTokenizer
from ..errors import DpoError

_ROWS, _TOKENS = 4, 64
_TEXT = "How do I clean a copper kettle? Rub it with half a lemon and some salt, rinse it, and dry it well."


def proof_rows(sources: Sequence[Source], tokenizer: Any, *, answers: bool = False) -> list[np.ndarray]:
    """Up to four rows of at most 64 tokens, prompt and chosen answer, of the first source that can be read.

    Args:
        sources: held-out rows before training rows.
        answers: the rows are answers, as for sft.
    """
    for source in sources:
        try:
            index = index_rows(source, answers=answers)
            work = RowTokenizer(tokenizer, 1_000_000, answers=True)
            chosen = np.linspace(0, len(index) - 1, min(_ROWS, len(index))).round().astype(int)
            pairs = [work.pair(index.read(int(row))) for row in chosen]
        except DpoError as error:
            say(f"the proof does not use {source}: {error.what}")
            continue
        return [np.concatenate([pair.prompt, pair.chosen])[:_TOKENS] for pair in pairs if pair]
    return [np.array(tokenizer.encode(_TEXT)[:_TOKENS], np.int32)]


def log_probs(model: nn.Module, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Log-probabilities of every next token, float32 (T, V) for each row of T tokens."""
    return [log_softmax(np.array(model(mx.array(tokens)[None])[0].astype(mx.float32))) for tokens in rows]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """In float64, because a float32 sum over a vocabulary is off by up to 1e-3; float32 (T, V)."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    return (shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))).astype(np.float32)
