"""Chooses the fastest forward that agrees with the model's own call, on real rows before the first update."""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..console import say
from ..data.tokenize import TokenizedPair
from ..errors import REPORT, DpoError, first_line
from ..forward.checkpointing import checkpoint_layers
from ..forward.pair_logps import COMPLETION, PLAIN, SEPARATE, SHARED, Forward
from ..machine.out_of_memory import refused_by_the_system
from ..models.load import compute_dtype
from ..randomness import random_untouched
from ..upstream import UpstreamError, versions
from .checked_rows import END, longest_row, sample_pairs, short_row, shortened
from .exact_model import known_model, known_pairs
from .forward_errors import (
    Tokens,
    agree,
    apart,
    end_tokens,
    floor_of,
    forward_gradient,
    forward_tokens,
    in_float32,
    own_gradient,
    own_tokens,
    precisions,
    relative_error,
    rounded_otherwise,
    rounding,
    slopes_agree,
    widens_cheaply,
)


def choose_forward(
    model: nn.Module, pairs: Sequence[TokenizedPair], setting: str, *, separate: bool = False
) -> Forward:
    """Invariant 4: the fastest forward whose scores and gradients agree with the model's own call.

    Args:
        separate: share prompts branch by branch.

    Raises:
        DpoError: `setting` is "shared", and the shared forward does not agree.
    """
    _check_causal(model, pairs)
    fast = () if setting == "plain" else (SEPARATE if separate else SHARED, COMPLETION)
    blameless: list[str] = []
    for forward in (*fast, PLAIN):
        problem = disagreement(model, pairs, forward)
        if problem is None:
            if forward is PLAIN:
                say("forward: plain")
            if blameless:
                say(_warning(blameless, forward), style="bold red")
            return forward
        if forward is not PLAIN and not exact_on_known_model(forward):
            blameless.append(forward.name)
        if setting == "shared":
            why = "is broken, not only on this model" if blameless else "is not exact on this model"
            hint = "set training.forward=auto, which uses an exact forward instead"
            raise DpoError(
                f"the shared forward {why}: {problem}",
                where="training.forward",
                hint=f"{hint}. {versions()}" if blameless else hint,
            )
        say(f"forward: {forward.name} is not used: {problem}")
    raise DpoError(
        f"this model cannot be trained: {problem}",
        where="training.gradient_checkpointing",
        hint="set training.gradient_checkpointing=off; if it is off, mlx_lm has no gradient for it",
    )


def _warning(lost: Sequence[str], forward: Forward) -> str:
    return (
        f"WARNING: the fast forward ({', '.join(lost)}) cannot be used, and the model is not the reason: "
        f"a small Granite model fails too. The {forward.name} forward is used; it is exact, but slower "
        f"and needs more memory. {versions()}"
    )


def exact_on_known_model(forward: Forward) -> bool:
    """Whether `forward` agrees with the own call of `known_model`, with and without checkpointing."""
    try:
        with random_untouched():
            model = known_model()
            exact = disagreement(model, known_pairs(), forward) is None
            checkpoint_layers(model)
            return exact and disagreement(model, known_pairs(), forward) is None
    except Exception:  # the check itself fails, although the user's model is not involved
        return False


def _check_causal(model: nn.Module, pairs: Sequence[TokenizedPair]) -> None:
    """Check that another last token does not change the logits of the tokens before it.

    Raises:
        DpoError: it does.
    """
    pair = short_row(pairs)
    tokens = mx.array(np.concatenate([pair.prompt, pair.chosen])[None])
    last = tokens[:, -1:]
    other = mx.concatenate([tokens[:, :-1], mx.where(last > 0, last - 1, last + 1)], axis=1)
    dtype = precisions(model)[0]
    with _computing(model, dtype):
        before, after = (model(t)[:, :-1].astype(mx.float32) for t in (tokens, other))
        off = mx.where(before == after, 0.0, mx.abs(before - after)).max().item()
    if off > (1e-3 if dtype == mx.float32 else 0.5):  # a later check reports NaN with its row
        raise DpoError(
            f"this model is not causal: a later token changes earlier logits by {off:.3g}",
            where="model.path",
            hint="the cause is mlx_lm's code for this architecture; choose another model",
        )


def _computing(model: nn.Module, dtype: mx.Dtype) -> AbstractContextManager[None]:
    """A context in which activations have this dtype: float32 or the model's own dtype."""
    return in_float32(model) if dtype != compute_dtype(model) else nullcontext()


def disagreement(model: nn.Module, pairs: Sequence[TokenizedPair], forward: Forward) -> str | None:
    """How `forward` differs from the model's own call on some of these pairs; None if it does not.

    The check compares every answer token of three short rows, the last tokens of the longest row, and the
    gradient of one block's trainable parameters on the shortest row: in float32 whatever the weights are, so
    that rounding hides no error. A model in half precision is also compared in its own dtype, on the shortest
    row.
    """
    first, *others = precisions(model)
    try:
        with _computing(model, first):
            problem = _problem(model, pairs, forward, first)
        for dtype in others:
            row = short_row(pairs)
            problem = problem or _scores_problem(model, [row], forward, dtype)
            problem = problem or _slope_problem(model, row, forward, dtype)
        return problem
    except UpstreamError as error:
        return error.what
    except Exception as error:  # a model's own code may raise any error
        if isinstance(error, DpoError) or refused_by_the_system(error):
            raise
        return f"the architecture does not allow it ({first_line(error)})"


def proof_rows(model: nn.Module, pairs: Sequence[TokenizedPair]) -> tuple[list[TokenizedPair], int]:
    """Rows on which to check a forward, and how many tokens of the longest row; fewer on a slow device."""
    rows = sample_pairs(pairs)
    tokens = mx.zeros((1, 16), mx.int32)
    mx.eval(model(tokens))  # the first call also compiles
    start = time.perf_counter()
    mx.eval(model(tokens))
    pace = (time.perf_counter() - start) / tokens.size
    computed = sum(2 * len(p.prompt) + len(p.chosen) + len(p.rejected) for p in rows)
    if pace * computed <= _PATIENCE_SECONDS:
        return rows, int(_PATIENCE_SECONDS / max(pace, 1e-9))
    return [shortened(row, 24 + 4 * place, 12 - 2 * place) for place, row in enumerate(rows[:2])], 0


_PATIENCE_SECONDS = 20.0
"""How long the model's own call may take on all rows of a check, and again on the longest row."""


def _problem(
    model: nn.Module, pairs: Sequence[TokenizedPair], forward: Forward, dtype: mx.Dtype
) -> str | None:
    rows, room = proof_rows(model, pairs)
    if not room:
        say(f"forward: this device is slow with this model: {forward.name} is checked on one short row only")
        rows = rows[:1]
    problem = _scores_problem(model, rows, forward, dtype)
    if not problem and (dtype == compute_dtype(model) or widens_cheaply(model)):
        problem = _slope_problem(
            model, shortened(rows[0]) if room else shortened(rows[0], 12, 6), forward, dtype
        )
    if problem or forward is PLAIN or room < 2 * END:  # the plain forward's logits would be large
        return problem
    return _long_problem(model, longest_row(pairs, room), forward, dtype)


def _scores_problem(
    model: nn.Module, rows: Sequence[TokenizedPair], forward: Forward, dtype: mx.Dtype
) -> str | None:
    floor = floor_of(model, rows[0])
    for row in rows:
        ours, theirs = forward_tokens(model, [row], forward), own_tokens(model, [row])
        if not agree(ours, theirs, floor, dtype):
            return _scores_differ(ours, theirs)
    return None


def _slope_problem(model: nn.Module, row: TokenizedPair, forward: Forward, dtype: mx.Dtype) -> str | None:
    truth = own_gradient(model, row)
    error = relative_error(forward_gradient(model, row, forward), truth)

    def floor() -> float:
        with rounded_otherwise(model):
            return relative_error(own_gradient(model, row), truth)

    return None if slopes_agree(error, floor, dtype) else f"gradients have a relative error of {error:.3g}"


def _long_problem(model: nn.Module, row: TokenizedPair, forward: Forward, dtype: mx.Dtype) -> str | None:
    count = min(END, len(row.chosen))
    theirs = partial(end_tokens, model, row, count)
    ours, expected = [forward_tokens(model, [row], forward)[0][-count:]], theirs()
    if agree(ours, expected, partial(rounding, model, theirs), dtype):
        return None
    return _scores_differ(ours, expected)


def _scores_differ(ours: Tokens, theirs: Tokens) -> str:
    found = apart(ours, theirs)
    return f"scores differ by up to {found.most:.3g} nats per token"


def check_batching(model: nn.Module, pairs: Sequence[TokenizedPair], forward: Forward) -> None:
    """Invariant 5: pairs have the same scores in a batch as one by one.

    Raises:
        DpoError: with the difference.
    """
    dtype = precisions(model)[0]
    with _computing(model, dtype):
        rows, _ = proof_rows(model, pairs)
        single = [forward_tokens(model, [row], forward) for row in rows]
        alone = [tokens[branch] for branch in (0, 1) for tokens in single]
        together = forward_tokens(model, rows, forward)
        same = agree(together, alone, floor_of(model, rows[0]), dtype)
    if not same:
        raise DpoError(
            f"a pair scores differently in a batch than alone: {_scores_differ(together, alone)}",
            where="training.micro_batch",
            hint="set training.micro_batch=1; " + REPORT,
        )
