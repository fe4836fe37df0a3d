"""Checks that the policy equals its reference before the first update: margins 0, sigmoid loss ln 2."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..console import say
from ..data.pair_store import PairStore
from ..data.tokenize import TokenizedPair
from ..errors import REPORT, DpoError
from ..forward.pair_logps import Forward
from ..forward.scoring import score_pairs, singles
from ..models.load import compute_dtype
from .checked_rows import sample_rows, short_row
from .forward_errors import (
    Apart,
    Tokens,
    agree,
    floor_of,
    forward_tokens,
    own_tokens,
    sums_agree,
)
from .reference import forget_reference, reference_scores


def check_unmoved(
    model: nn.Module, pairs: Sequence[TokenizedPair], forward: Forward, reference: np.ndarray
) -> None:
    """Invariant 1: before the first update the policy equals its reference: margins 0, sigmoid loss ln 2.

    Args:
        reference: (n, 2) scores of all pairs, as training will use them.

    Raises:
        DpoError: with the largest margin.
    """
    rows = sample_rows(pairs)
    if not np.isfinite(reference).all():
        bad = pairs[int(np.argmin(np.isfinite(reference).all(axis=1)))]
        raise DpoError(
            "the reference gives this pair no finite log-probability",
            where=bad.where,
            hint="the model's weights hold NaN, or its dtype overflows: try a bfloat16 or float32 copy",
        )
    some = [pairs[i] for i in rows]
    policy, expected = score_pairs(model, some, forward, singles(some)), reference[rows]
    lengths = np.array([[len(p.chosen), len(p.rejected)] for p in some])
    if not sums_agree(policy, expected, lengths, floor_of(model, short_row(pairs)), compute_dtype(model)):
        _refuse_moved(policy - expected)


class Before(NamedTuple):
    """Scores of `short_row` before an adapter was attached; in half precision, also their rounding error."""

    tokens: Tokens
    floor: Apart | None


def before_attaching(model: nn.Module, pairs: Sequence[TokenizedPair]) -> Before:
    """The scores for `check_as_before`.

    Full training makes the weights float32, so the rounding of half precision is measured before that.
    """
    row = short_row(pairs)
    tokens = own_tokens(model, [row])
    half = compute_dtype(model) != mx.float32
    return Before(tokens, floor_of(model, row)() if half else None)


def check_as_before(
    model: nn.Module, pairs: Sequence[TokenizedPair], forward: Forward, before: Before
) -> None:
    """Part of invariant 1: a fresh adapter changes nothing.

    Raises:
        DpoError: with the largest margin.
    """
    tokens, floor = before
    if not np.isfinite(np.concatenate(tokens)).all():
        return  # the check of the reference reports the row
    row = short_row(pairs)
    now = forward_tokens(model, [row], forward)
    if not agree(now, tokens, (lambda: floor) if floor else floor_of(model, row), compute_dtype(model)):
        _refuse_moved(np.array([[a.sum() - b.sum() for a, b in zip(now, tokens, strict=True)]]))


def _refuse_moved(moved: np.ndarray) -> None:
    """moved (n, 2): change of the scores."""
    raise DpoError(
        f"policy and reference differ at the start: margins up to {np.abs(moved @ [1, -1]).max():.3g} nats",
        where="model",
        hint=REPORT,
    )


def checked_reference(
    policy: nn.Module,
    pairs: PairStore,
    forward: Forward,
    key: dict[str, Any],
    label: str,
) -> np.ndarray:
    """Scores (n, 2) of the present policy, cached or computed, that passed `check_unmoved`.

    Cached scores that do not pass although their key is the same are computed again, with a message.

    Raises:
        DpoError: as `check_unmoved`.
    """
    reference = reference_scores(policy, pairs, forward, key, label)
    try:
        check_unmoved(policy, pairs, forward, reference.scores)
    except DpoError:
        if not reference.found:
            raise
        say(f"reference, {label}: the cached scores are not those of the model; the pairs are scored again")
        forget_reference(key)
        reference = reference_scores(policy, pairs, forward, key, label)
        check_unmoved(policy, pairs, forward, reference.scores)
    return reference.scores
