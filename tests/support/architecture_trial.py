"""One architecture, built tiny: which forward do the start-up checks choose, and is it exact?

`trial(name)` compares scores and the gradient of every trained parameter with those of the model's own call
on single sequences, without padding, cache or checkpointing.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import mlx_dpo  # noqa: F401  (loads the fast BLAS, so it comes before MLX)

# isort: split
import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_map

from mlx_dpo.data.tokenize import TokenizedPair
from mlx_dpo.errors import DpoError, first_line
from mlx_dpo.forward.checkpointing import checkpoint_layers
from mlx_dpo.forward.pair_logps import COMPLETION, SEPARATE, SHARED, Forward
from mlx_dpo.models.adapters import AdapterConfig, attach
from mlx_dpo.training.forward_check import check_batching, choose_forward, disagreement

from .tiny_architectures import TOKENS, build

LENGTHS = ((45, 30, 17), (20, 5, 30), (44, 29, 18))
"""Tokens of prompt, chosen and rejected. The first and the last pair are computed together."""
SCORES, GRADIENT = (1e-3, 1e-5), 1e-4
"""How far scores may differ, in nats and as a share; how far a whole gradient may, as a share of its size."""
NOT_BUILDABLE, NOT_TRAINABLE, REFUSED = "not buildable", "not trainable", "refused"
_TWO_TOKENS = mx.zeros((1, 2), mx.int32)


@dataclass
class Result:
    """What became of one architecture.

    `forward` and `checkpointed`: which forward the start-up checks chose, without and with checkpointed
    blocks, or why none. `remark`: why not shared, and what else is to be known. `wrong`: where a chosen
    forward is not exact. `scores` (nats), `gradient` (share of its size): the largest differences from the
    model's own call.
    """

    name: str
    memory: str = ""
    forward: str = NOT_BUILDABLE
    checkpointed: str = ""
    remark: str = ""
    wrong: str = ""
    scores: float = 0.0
    gradient: float = 0.0
    seconds: float = 0.0

    @property
    def built(self) -> bool:
        """Whether there was a model to try."""
        return self.forward != NOT_BUILDABLE

    @property
    def shared(self) -> bool:
        """Whether every prompt is computed once, also with checkpointed blocks."""
        return self.forward == self.checkpointed == SHARED.name

    def note(self, text: str) -> None:
        """Add to the remark what it does not say yet."""
        if text not in self.remark:
            self.remark = f"{self.remark}; {text}" if self.remark else text


class Truth(NamedTuple):
    """One pair by the model's own call on each sequence alone: scores (2, 1) and a gradient of their sum."""

    scores: np.ndarray
    gradient: dict[str, mx.array]


def trial(name: str) -> Result:
    """Build `name` tiny, ask the start-up checks which forward is exact, and see whether it is."""
    start, result, pairs = time.perf_counter(), Result(name), random_pairs()
    try:
        result.memory = memory_kinds(built(name))
        result.forward = NOT_TRAINABLE
        model = adapted(name, result)
        check_causal(model)
        truths = [own_call(model, pair) for pair in pairs]
    except Exception as error:
        result.note(in_a_line(error))
        return result
    for truth, pair in zip(truths, pairs, strict=True):
        if (np.abs(generated(model, pair) - truth.scores) > allowed(truth.scores)).any():
            result.note("mlx_lm's own call gives other scores with its cache than without")
    result.forward = chosen(model, pairs, truths, result)
    checkpoint_layers(model)
    result.checkpointed = chosen(model, pairs, truths, result)
    result.seconds = time.perf_counter() - start
    return result


def in_a_line(error: BaseException) -> str:
    """Kind and first line of an error."""
    return f"{type(error).__name__}: {first_line(error)}"


def built(name: str) -> nn.Module:
    """The tiny model, whose own call works."""
    model = build(name)
    mx.eval(model(_TWO_TOKENS))
    return model


def adapted(name: str, result: Result) -> nn.Module:
    """The tiny model in training, with LoRA on every linear layer, none of it zero."""
    mx.random.seed(0)
    model = built(name)
    attach(model, AdapterConfig(rank=4))
    try:
        mx.eval(model(_TWO_TOKENS))
    except AttributeError as error:
        result.note(f"fails with adapter.targets=all ({first_line(error)})")
        model = built(name)
        attach(model, AdapterConfig(rank=4, targets=called_only(model)))
    for module in model.modules():
        if "lora_b" in module:
            module.lora_b = tree_map(lambda b: 0.1 * mx.random.normal(b.shape), module.lora_b)
    model.train()
    mx.eval(model.parameters())
    return model


def called_only(model: nn.Module) -> list[str]:
    """Names, inside a block, of the linear layers whose weight no other module reads."""
    read, names = set(), set()
    layers = [(n, m) for block in model.layers for n, m in block.named_modules() if isinstance(m, nn.Linear)]
    for name, layer in layers:
        weight = property(lambda self, name=name: read.add(name) or self["weight"])
        layer.__class__ = type(type(layer).__name__, (type(layer),), {"weight": weight})
        names.add(name)
    mx.eval(model(_TWO_TOKENS))
    for _, layer in layers:
        layer.__class__ = type(layer).__base__
    return sorted(names - read)


def memory_kinds(model: nn.Module) -> str:
    """The kinds of caches its blocks have, in the order in which they appear."""
    from mlx_lm.models.cache import CacheList, make_prompt_cache

    def kind(c: Any) -> str:
        return "(" + " + ".join(map(kind, c.caches)) + ")" if isinstance(c, CacheList) else type(c).__name__

    return ", ".join(dict.fromkeys(kind(c) for c in make_prompt_cache(model)))


def random_pairs() -> list[TokenizedPair]:
    """Pairs of random tokens of the lengths above."""
    rng = np.random.default_rng(0)
    return [
        TokenizedPair(*(rng.integers(1, TOKENS, n).astype(np.int32) for n in lengths), f"row {i}")
        for i, lengths in enumerate(LENGTHS)
    ]


def check_causal(model: nn.Module) -> None:
    """Later tokens must not change what came out for earlier ones.

    Raises:
        ValueError: they do.
    """
    tokens = mx.arange(1, 65)[None]
    apart = mx.abs(model(tokens)[:, :45, :TOKENS] - model(tokens[:, :45])[:, :, :TOKENS]).max().item()
    if not apart <= SCORES[0]:
        raise ValueError(f"its own call looks ahead: later tokens change earlier logits by {apart:.2g}")


def own_call(model: nn.Module, pair: TokenizedPair) -> Truth:
    """By `model(tokens)`: no padding, no cache, nothing replaced."""

    def score(completion):
        tokens = mx.array(np.concatenate([pair.prompt, completion])[None])
        return completion_logps(model(tokens[:, :-1])[:, len(pair.prompt) - 1 :], completion)

    return Truth(*with_gradient(model, lambda: mx.stack([score(pair.chosen), score(pair.rejected)])))


def generated(model: nn.Module, pair: TokenizedPair) -> np.ndarray:
    """Scores (2, 1) as mlx_lm generates: the prompt into its own cache, then the completion."""
    from mlx_lm.models.cache import make_prompt_cache

    scores = []
    for completion in (pair.chosen, pair.rejected):
        cache = make_prompt_cache(model)
        before = model(mx.array(pair.prompt[None]), cache=cache)[:, -1:]
        mx.eval(before)
        logits = mx.concatenate([before, model(mx.array(completion[None, :-1]), cache=cache)], axis=1)
        scores.append(completion_logps(logits, completion))
    return np.array(mx.stack(scores))[:, None]


def completion_logps(logits: mx.array, completion: np.ndarray) -> mx.array:
    """Sum of log p over the tokens of a completion, from logits (1, C, V)."""
    logits = logits[0].astype(mx.float32)
    logps = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    return mx.take_along_axis(logps, mx.array(completion)[:, None], axis=-1).sum()


def with_gradient(model: nn.Module, score: Callable[[], mx.array]) -> tuple[np.ndarray, dict[str, mx.array]]:
    """Scores (2, B), chosen first, and the gradient of all chosen ones minus half of all rejected ones."""
    parameters = model.trainable_parameters()

    def summed(_):
        scores = score().reshape(2, -1)
        return (scores * mx.array([[1.0], [-0.5]])).sum(), scores

    try:
        (_, scores), gradient = nn.value_and_grad(model, summed)(model)
    finally:
        model.update(parameters)
    mx.eval(scores, gradient)
    return np.array(scores), dict(tree_flatten(gradient))


def chosen(model: nn.Module, pairs: Sequence[TokenizedPair], truths: Sequence[Truth], result: Result) -> str:
    """Name of the forward that the start-up checks choose; what is found about it goes into `result`."""
    try:
        forward = choose_forward(model, pairs, "auto")
        check_batching(model, pairs, forward)
    except DpoError as error:
        result.note(error.what)
        return REFUSED
    for faster in (SHARED, COMPLETION):
        if forward is faster:
            break
        result.note(f"not {faster.name}: {disagreement(model, pairs, faster)}")
    everything = list(range(len(pairs)))
    batches = [(forward, [i]) for i in everything] + [(forward, everything)]
    for kind, rows in [*batches, (SEPARATE, everything)] if forward is SHARED else batches:
        try:
            problem = difference(model, [pairs[i] for i in rows], [truths[i] for i in rows], kind, result)
        except Exception as error:
            problem = in_a_line(error)
        if problem:
            result.wrong = result.wrong or f"{kind.name}, {len(rows)} pairs: {problem}"
    return forward.name


def difference(
    model: nn.Module,
    pairs: Sequence[TokenizedPair],
    truths: Sequence[Truth],
    forward: Forward,
    result: Result,
) -> str | None:
    """What tells `forward` on this batch from the truth; None where nothing does."""
    batch = forward.build(pairs)
    scores, gradient = with_gradient(model, lambda: forward.score(model, batch, gradient=True))
    expected = np.concatenate([t.scores for t in truths], axis=1)
    apart = np.abs(scores - expected)
    size = error = 0.0
    for name, ours in gradient.items():
        theirs = sum(t.gradient[name] for t in truths)
        size += mx.square(theirs).sum().item()
        error += mx.square(ours - theirs).sum().item()
    share = (error / size) ** 0.5
    result.scores = max(result.scores, float(apart.max()))
    result.gradient = max(result.gradient, share)
    if not (apart <= allowed(expected)).all():
        return f"scores differ by {apart.max():.2g} nats"
    return None if share <= GRADIENT else f"gradients differ by {share:.2g} of their size"


def allowed(scores: np.ndarray) -> np.ndarray:
    """How far from these another computation may be."""
    return SCORES[0] + SCORES[1] * np.abs(scores)
