"""Compare two computations of the same answer, token by token, with the effect of rounding alone."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from ..data.shared_prompts import SharedBatch
from ..data.tokenize import TokenizedPair
from ..forward.body_and_head import body_first, head, hidden_states
from ..forward.checkpointing import suspended
from ..forward.custom_gradients import is_float
from ..forward.pair_logps import Forward
from ..logps import token_logps
from ..models.load import compute_dtype

Tokens = list[np.ndarray]
"""Log-probabilities of answer tokens in nats, one float64 array (C,) per branch, chosen first."""


class Apart(NamedTuple):
    """The difference of two `Tokens`, in nats per token: root mean square, and maximum."""

    rms: float
    most: float


_LEAST = Apart(2e-5, 1e-4)
"""Differences always allowed: the rounding of float32 logits of about 30 and of their log-sum."""
_MOST = {mx.float32: Apart(1e-3, 1e-2), mx.float16: Apart(0.1, 0.5), mx.bfloat16: Apart(0.5, 2.5)}
"""Larger differences are never allowed, however large the rounding is."""
_LEAST_SLOPE = 1e-4
_MOST_SLOPE = {mx.float32: 1e-2, mx.float16: 0.1, mx.bfloat16: 0.5}
"""The same for gradients, as relative errors."""
_FACTOR = 4
"""Exact forwards differ by up to 1.3 times the rounding in docs/checks.md; other devices may round more."""


def apart(ours: Tokens, theirs: Tokens) -> Apart:
    """The difference of these; infinite if the numbers of tokens differ. NaN agrees with NaN."""
    if [len(a) for a in ours] != [len(b) for b in theirs]:
        return Apart(np.inf, np.inf)
    a, b = np.concatenate(ours), np.concatenate(theirs)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        off = np.where(same, 0.0, np.abs(a - b))
    off = np.where(np.isnan(off), np.inf, off)
    return Apart(float(np.sqrt(np.square(off).mean())), float(off.max()))


def agree(ours: Tokens, theirs: Tokens, floor: Callable[[], Apart], dtype: mx.Dtype) -> bool:
    """Whether the difference is at most four times the floor, within fixed bounds.

    Args:
        floor: the difference by rounding alone; called only if needed.
        dtype: of the activations.
    """
    found = apart(ours, theirs)
    return _within(found, _LEAST) or _within(found, allowed(floor(), dtype))


def allowed(floor: Apart, dtype: mx.Dtype) -> Apart:
    """The largest allowed difference of two exact computations."""
    bounds = zip(floor, _LEAST, _MOST[dtype], strict=True)
    return Apart(*(max(least, min(_FACTOR * value, most)) for value, least, most in bounds))


def _within(found: Apart, limit: Apart) -> bool:
    return found.rms <= limit.rms and found.most <= limit.most


def sums_agree(
    ours: np.ndarray, theirs: np.ndarray, tokens: np.ndarray, floor: Callable[[], Apart], dtype: mx.Dtype
) -> bool:
    """The same for scores, each a sum over `tokens` tokens: rounding adds up like a random walk."""
    found = np.abs(ours - theirs) / np.sqrt(tokens)
    return bool((found <= _LEAST.most).all() or (found <= allowed(floor(), dtype).rms).all())


def slopes_agree(error: float, floor: Callable[[], float], dtype: mx.Dtype) -> bool:
    """As `agree`, for the relative error of a gradient."""
    return error <= _LEAST_SLOPE or error <= allowed_slope(floor(), dtype)


def allowed_slope(floor: float, dtype: mx.Dtype) -> float:
    """As `allowed`, for the relative error of a gradient."""
    return max(_LEAST_SLOPE, min(_FACTOR * floor, _MOST_SLOPE[dtype]))


@contextmanager
def _blocks_called(model: nn.Module, instead: Callable[..., Any]) -> Iterator[None]:
    """Within it, calls of blocks become `instead(the block's own call, *args, **kwargs)`."""
    kinds = {id(block): (block, type(block)) for block in model.layers}

    def standing_in(kind):
        def call(self, *args, **kwargs):
            return instead(lambda *a, **k: kind.__call__(self, *a, **k), *args, **kwargs)

        return type(kind.__name__, (kind,), {"__call__": call})

    for block, kind in kinds.values():
        block.__class__ = standing_in(kind)
    try:
        yield
    finally:
        for block, kind in kinds.values():
            block.__class__ = kind


@contextmanager
def in_float32(model: nn.Module) -> Iterator[None]:
    """Within it, activations are float32 whatever the weights are: rounding no longer hides a fault."""

    def wide(value):
        return value.astype(mx.float32) if is_float(value) else value

    def call(own, *args, **kwargs):
        return own(*map(wide, args), **{name: wide(value) for name, value in kwargs.items()})

    with _blocks_called(model, call):
        yield


def runs_in_float32(model: nn.Module) -> bool:
    """Whether its own code does compute in float32 when it is asked to."""
    try:
        with in_float32(model):
            logits = model(mx.zeros((1, 2), mx.int32))
            mx.eval(logits)
    except Exception:  # a model's own code may raise anything; what it then trains in is proved alone
        return False
    return logits.dtype == mx.float32


@contextmanager
def rounded_otherwise(model: nn.Module) -> Iterator[None]:
    """Within it, what each block gives is off by up to one unit in its last place, at random."""
    keys = iter(mx.random.split(mx.random.key(0), 2**12))

    def off(x):
        spread = mx.finfo(x.dtype).eps * mx.random.uniform(-1, 1, x.shape, key=next(keys))
        return (x.astype(mx.float32) * (1 + spread)).astype(x.dtype)

    def call(own, *args, **kwargs):
        output = own(*args, **kwargs)
        if is_float(output):
            return off(output)
        if type(output) is tuple and is_float(output[0]):
            return off(output[0]), *output[1:]
        return output

    with _blocks_called(model, call):
        yield


def own_logps(model: nn.Module, pair: TokenizedPair, branch: int) -> mx.array:
    """Log-probabilities of one branch's tokens (C,), by the model's own call on prompt and answer alone."""
    answer = (pair.chosen, pair.rejected)[branch]
    tokens = mx.array(np.concatenate([pair.prompt, answer])[None])
    return token_logps(model(tokens[:, :-1])[:, -len(answer) :], tokens[:, -len(answer) :])[0]


def own_tokens(model: nn.Module, pairs: Sequence[TokenizedPair]) -> Tokens:
    """The same for all branches, in evaluation mode."""
    with _evaluating(model), body_first(model):
        return [_known(own_logps(model, pair, branch)) for branch in (0, 1) for pair in pairs]


def end_tokens(model: nn.Module, pair: TokenizedPair, count: int) -> Tokens:
    """The same for the last `count` tokens of the chosen answer; only their logits are computed."""
    tokens = mx.array(np.concatenate([pair.prompt, pair.chosen])[None])
    with _evaluating(model):
        hidden = hidden_states(model, tokens[:, :-1])[0, -count:]
        mx.eval(hidden)
        return [_known(token_logps(head(model, hidden), tokens[0, -count:]))]


def forward_tokens(model: nn.Module, pairs: Sequence[TokenizedPair], forward: Forward) -> Tokens:
    """The same for all branches, as `forward` scores them in one batch, in evaluation mode.

    A score is a sum over its mask, so a token's log-probability is the score's gradient in the mask. If a
    score is not the sum of its tokens, they are NaN.
    """
    batch = forward.build(pairs)
    shared = isinstance(batch, SharedBatch)
    given = [s.mask for family in batch.families for s in family.segments] if shared else [batch.mask]
    rows = np.array(batch.order) if shared else np.arange(2 * len(pairs))
    once = mx.array(1 / np.bincount(rows)[rows], mx.float32)  # like answers are computed once

    def scores(*masks):
        left = iter(masks)
        if shared:
            families = tuple(
                f._replace(segments=tuple(s._replace(mask=next(left)) for s in f.segments))
                for f in batch.families
            )
            counted = batch._replace(families=families)
        else:
            counted = batch._replace(mask=next(left))
        return [forward.score(model, counted, gradient=False)]

    with _evaluating(model):
        masks = [mask.astype(mx.float32) for mask in given]
        (found_scores,), logps = mx.vjp(scores, masks, [once])
        mx.eval(found_scores, logps)
    found = [
        np.array(row, np.float64)[np.array(counts) != 0]
        for logps_of, mask in zip(logps, given, strict=True)
        for row, counts in zip(logps_of, mask, strict=True)
    ]
    tokens = [found[row] for row in rows]
    same = np.isclose([t.sum() for t in tokens], np.array(found_scores), rtol=1e-5, atol=1e-3, equal_nan=True)
    return [t if ok else np.full_like(t, np.nan) for t, ok in zip(tokens, same, strict=True)]


def rounding(model: nn.Module, tokens: Callable[[], Tokens]) -> Apart:
    """How far rounding in the blocks alone changes `tokens()`."""
    exact = tokens()
    with rounded_otherwise(model):
        return apart(tokens(), exact)


def floor_of(model: nn.Module, row: TokenizedPair) -> Callable[[], Apart]:
    """How far rounding alone changes the scores of this row; measured on first use."""
    return cache(partial(rounding, model, partial(own_tokens, model, [row])))


def _known(logps: mx.array) -> np.ndarray:
    mx.eval(logps)
    return np.array(logps, np.float64)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


SHARES = mx.array([1.0, -0.5])
"""Weights of the chosen and rejected scores in the gradient; they differ, to tell the branches apart."""


def own_gradient(model: nn.Module, pair: TokenizedPair) -> list[mx.array]:
    """The gradient of `block_gradient` by the model's own call, never checkpointed."""
    total: list[mx.array] = []
    with suspended():
        for branch, share in enumerate(SHARES.tolist()):  # one at a time: half the memory
            own = block_gradient(model, lambda branch=branch: own_logps(model, pair, branch).sum())
            total = [share * g + before for g, before in zip(own, total or [0.0] * len(own), strict=True)]
            mx.eval(total)
    return total


def forward_gradient(model: nn.Module, pair: TokenizedPair, forward: Forward) -> list[mx.array]:
    """The same by `forward`."""
    batch = forward.build([pair])
    found = block_gradient(model, lambda: (forward.score(model, batch, gradient=True) * SHARES).sum())
    mx.eval(found)
    return found


def relative_error(ours: list[mx.array], theirs: list[mx.array]) -> float:
    """Norm of the difference as a share of the norm of `theirs`; 0 if that norm is not finite."""
    size = sum((mx.square(g).sum() for g in theirs), mx.array(0.0))
    if not theirs or not mx.isfinite(size).item():
        return 0.0  # a check of the reference reports the row
    difference = sum(mx.square(a - b).sum() for a, b in zip(ours, theirs, strict=True))
    return float(mx.sqrt(difference / mx.maximum(size, 1e-30)).item())


def block_gradient(model: nn.Module, score: Callable[[], mx.array]) -> list[mx.array]:
    """Gradient in the first trained block, float32, which depends on all later blocks.

    Without dropout. Not evaluated.
    """
    block = next((layer for layer in model.layers if tree_flatten(layer.trainable_parameters())), None)
    if block is None:
        return []

    def changed(parameters):
        block.update(parameters)
        return score()

    training, parameters = model.training, block.trainable_parameters()
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    try:
        return [g.astype(mx.float32) for _, g in tree_flatten(mx.grad(changed)(parameters))]
    finally:
        block.update(parameters)
        model.train(training)


def precisions(model: nn.Module) -> list[mx.Dtype]:
    """Dtypes in which a forward is checked: float32 if the model's code allows it, and the model's own."""
    own = compute_dtype(model)
    return [mx.float32, own] if own != mx.float32 and runs_in_float32(model) else [own]


def widens_cheaply(model: nn.Module) -> bool:
    """Whether memory allows a gradient in float32, which needs a float32 copy of half-precision weights."""
    half = (mx.float16, mx.bfloat16)
    return sum(w.nbytes for _, w in tree_flatten(model.parameters()) if w.dtype in half) <= _WIDENED


_WIDENED = 10**9
"""Bytes."""
