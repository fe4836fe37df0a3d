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
    """What every batch has: `lengths` (2B,) int32, completion tokens, chosen rows first."""

    @property
    def lengths(self) -> mx.array: ...


class Forward(NamedTuple):
    """A named way to score pairs.

    `build(pairs)` builds a batch of B pairs; `score(model, batch, gradient=...)` gives float32 (2B,) nats,
    chosen rows first. `gradient` says whether the result will be differentiated; it changes what is kept in
    memory, not the values. With `agreement=True` and no gradient it gives (2B, 2): also the `mean_agreement`
    of each row.
    """

    name: str
    build: Callable[[Sequence[TokenizedPair]], Batch]
    score: Callable[..., mx.array]


def plain_score(model: nn.Module, batch: PairBatch, *, gradient: bool, agreement: bool = False) -> mx.array:
    """The model's own call on whole sequences, with logits at every position."""
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
    """Hidden states of whole sequences, logits for completion tokens only."""
    with lean(gradient):
        hidden = hidden_states(model, batch.inputs)
        hidden = mx.take_along_axis(hidden, batch.positions[..., None], axis=1)
        score = score_and_agreement if agreement else score_tokens
        return score(model, hidden, batch.targets, batch.mask, gradient=gradient)


def shared_score(
    model: nn.Module, batch: SharedBatch, *, gradient: bool, agreement: bool = False
) -> mx.array:
    """Every prompt is computed once; its branches continue from the memory of the blocks."""
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
    """The memory of the blocks after a family's prompts."""
    state = empty_state(model)
    if family.prompts.size:
        # If blocks run more than once, the output of the last one is used again.
        once = len(state) == len(model.layers)
        with only_memory(model.layers[-1]) if once else nullcontext():
            hidden_states(model, family.prompts, state)
    return state


def _one_by_one(done: list[mx.array], state: list[Memory]) -> tuple[list[mx.array], list[Memory]]:
    """The same arrays: what continues `state` comes after `done`, and before it in the backward pass.

    In the backward pass it also comes before the operations that made `state`. Otherwise MLX computes the
    last blocks of one branch next to the first blocks of the other, and keeps the arrays of both.
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
    """As `shared_score`, with one branch in memory at a time: every branch of `batch` has its own segment.

    The gradient of a pair loss is linear in the gradients of the scores. So the gradient of each branch is
    computed with its score, before the next branch starts, and scaled when the loss is known. No forward runs
    twice.
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
    """The score of one branch (1,), computed with its gradient in the parameters and the prompt state."""
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
    """The same forward; tokens beyond the pair's shorter completion have the weight `ld_alpha` (None: 1)."""
    if ld_alpha is None:
        return forward
    build = partial(forward.build, ld_alpha=ld_alpha)
    return forward._replace(name=f"{forward.name}, ld_alpha={ld_alpha}", build=build)


PLAIN = Forward("plain", build_batch, plain_score)
COMPLETION = Forward("completion", build_batch, completion_score)
SHARED = Forward("shared", build_shared, shared_score)
SEPARATE = Forward("shared, branch by branch", partial(build_shared, separate=True), separate_score)
