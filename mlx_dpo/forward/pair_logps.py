"""Pairs to log-probabilities, three ways that must agree: plain, completion, shared."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple, Protocol

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from ..data.batches import PairBatch, build_batch
from ..data.shared_prompts import Family, Segment, SharedBatch, build_shared
from ..data.tokenize import TokenizedPair
from ..logps import completion_logps, log_sum, token_logps
from .body_and_head import hidden_states
from .checkpointing import only_memory
from .completion_logps import mean_agreement, score_and_agreement, score_tokens
from .custom_gradients import custom_function, is_float
from .kernels import lean
from .prompt_cache import Memory, empty_state, forked


class Batch(Protocol):
    """What every batch tells: `lengths` (2B,) int32, completion tokens, chosen rows first."""

    @property
    def lengths(self) -> mx.array: ...


class Forward(NamedTuple):
    """A named way to score pairs.

    `build(pairs)` lays B pairs out; `score(model, batch, gradient=...)` gives float32 (2B,) nats, chosen rows
    first. `gradient` says whether the result will be differentiated; it changes what is kept, not the values.
    With `agreement=True` and no gradient it gives (2B, 2): also the `mean_agreement` of each row.
    """

    name: str
    build: Callable[[Sequence[TokenizedPair]], Batch]
    score: Callable[..., mx.array]


def plain_score(model: nn.Module, batch: PairBatch, *, gradient: bool, agreement: bool = False) -> mx.array:
    """The model's own call on whole sequences; logits of every position exist for a moment."""
    logits = model(batch.inputs)
    logits = mx.take_along_axis(logits, batch.positions[..., None], axis=1)
    scores = completion_logps(logits, batch.targets, batch.mask)
    if not agreement:
        return scores
    logits = logits.astype(mx.float32)
    squares = log_sum(2 * logits) - 2 * log_sum(logits)
    means = mean_agreement(token_logps(logits, batch.targets), squares, batch.mask)
    return mx.stack([scores, means], axis=-1)


def completion_score(
    model: nn.Module, batch: PairBatch, *, gradient: bool, agreement: bool = False
) -> mx.array:
    """Hidden states of whole sequences, logits of completion tokens only."""
    with lean(gradient):
        hidden = hidden_states(model, batch.inputs)
        hidden = mx.take_along_axis(hidden, batch.positions[..., None], axis=1)
        score = score_and_agreement if agreement else score_tokens
        return score(model, hidden, batch.targets, batch.mask, gradient=gradient)


def shared_score(
    model: nn.Module, batch: SharedBatch, *, gradient: bool, agreement: bool = False
) -> mx.array:
    """Every prompt once; its branches continue from what the blocks remember of it."""
    scores: list[mx.array] = []
    with lean(gradient):
        for family in batch.families:
            prompts, state = len(family.prompts), prompt_state(model, family)
            for segment in family.segments:
                if gradient:
                    scores[-1:], state = _one_by_one(scores[-1:], state)
                own = forked(state, len(segment.inputs) // prompts)
                scores.append(_segment(model, segment, own, gradient, agreement))
    return mx.concatenate(scores)[batch.order]


def prompt_state(model: nn.Module, family: Family) -> list[Memory]:
    """What the blocks remember of a family's prompts."""
    state = empty_state(model)
    if family.prompts.size:
        # Where blocks run more than once, what the last one gives is used again.
        once = len(state) == len(model.layers)
        with only_memory(model.layers[-1]) if once else nullcontext():
            hidden_states(model, family.prompts, state)
    return state


def _one_by_one(done: list[mx.array], state: list[Memory]) -> tuple[list[mx.array], list[Memory]]:
    """The same, but what continues `state` comes after `done`, and in the backward pass before it.

    It comes before what made `state`, too. Else MLX takes the last blocks of one beside the first ones of the
    other, and holds what both work with.
    """
    given = [memory.arrays() for memory in state]
    present = [a for arrays in given for a in arrays if is_float(a)]
    if not present:
        return done, state
    kept = iter(_in_turn(*done, *present))
    done = [next(kept) for _ in done]
    rebuilt = [[next(kept) if is_float(a) else a for a in arrays] for arrays in given]
    return done, [memory.rebuilt(arrays) for memory, arrays in zip(state, rebuilt, strict=True)]


@custom_function
def _in_turn(*arrays: mx.array) -> tuple[mx.array, ...]:
    return tuple(mx.depends(list(arrays), list(arrays)))


@_in_turn.vjp
def _in_turn_vjp(primals, cotangents, outputs):
    return tuple(mx.depends(list(cotangents), list(cotangents)))


def _segment(
    model: nn.Module, segment: Segment, state: list[Memory], gradient: bool, agreement: bool = False
) -> mx.array:
    hidden = hidden_states(model, segment.inputs, state)[:, -segment.targets.shape[1] :]
    score = score_and_agreement if agreement else score_tokens
    return score(model, hidden, segment.targets, segment.mask, gradient=gradient)


def separate_score(
    model: nn.Module, batch: SharedBatch, *, gradient: bool, agreement: bool = False
) -> mx.array:
    """As `shared_score`, one branch in memory at a time: `batch` holds every branch in a segment of its own.

    A pair loss is linear in the scores' gradients, so each branch's gradient is formed with its score, before
    the next branch starts, and scaled once the loss is known. No forward runs twice.
    """
    if not gradient:
        return shared_score(model, batch, gradient=False, agreement=agreement)
    scores: list[mx.array] = []
    with lean():
        for family in batch.families:
            state = prompt_state(model, family)
            for segment in family.segments:
                scores.append(_with_gradient(model, segment, forked(state, 1), after=scores[-1:]))
    return mx.concatenate(scores)[batch.order]


def _with_gradient(
    model: nn.Module, segment: Segment, state: list[Memory], after: list[mx.array]
) -> mx.array:
    """One branch's score (1,); its gradient in parameters and prompt state is there when the score is."""
    parameters = model.trainable_parameters()
    names, values = zip(*tree_flatten(parameters), strict=True)
    sizes = [len(memory.arrays()) for memory in state]
    given = [a for memory in state for a in memory.arrays()]
    present = [i for i, a in enumerate(given) if is_float(a)]

    def score(*arrays):
        model.update(tree_unflatten(list(zip(names, arrays, strict=False))))
        filled = list(given)
        for i, a in zip(present, arrays[len(names) :], strict=True):
            filled[i] = a
        ends = np.cumsum(sizes)
        own = [m.rebuilt(filled[end - size : end]) for m, size, end in zip(state, sizes, ends, strict=True)]
        return _segment(model, segment, own, gradient=True).sum()

    @custom_function
    def score_and_slopes(*arrays):
        if after:
            arrays = mx.depends(list(arrays), after)
        value, slopes = mx.value_and_grad(score, argnums=list(range(len(arrays))))(*arrays)
        return value[None], *slopes

    @score_and_slopes.vjp
    def score_and_slopes_vjp(primals, cotangents, outputs):
        return tuple((cotangents[0] * slope).astype(slope.dtype) for slope in outputs[1:])

    result = score_and_slopes(*values, *(given[i] for i in present))[0]
    model.update(parameters)
    return result


def desensitised(forward: Forward, ld_alpha: float | None) -> Forward:
    """The same, but tokens beyond the shorter completion of a pair count only `ld_alpha`; None: fully."""
    if ld_alpha is None:
        return forward
    build = partial(forward.build, ld_alpha=ld_alpha)
    return forward._replace(name=f"{forward.name}, ld_alpha={ld_alpha}", build=build)


PLAIN = Forward("plain", build_batch, plain_score)
COMPLETION = Forward("completion", build_batch, completion_score)
SHARED = Forward("shared", build_shared, shared_score)
SEPARATE = Forward("shared, branch by branch", partial(build_shared, separate=True), separate_score)
