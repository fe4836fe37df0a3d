"""Memory of a run before weights are loaded: traced from the training step itself, without weights."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.optimizers as optimizers
import numpy as np
from mlx.utils import tree_flatten

from ..data.shared_prompts import SharedBatch, build_shared
from ..data.tokenize import TokenizedPair, pair_sizes
from ..forward.body_and_head import head, hidden_states
from ..forward.completion_logps import chunks_as_on
from ..forward.custom_gradients import arrays_of, filled
from ..forward.kernels import lean
from ..forward.pair_logps import COMPLETION, PLAIN, SEPARATE, SHARED, Forward, prompt_state
from ..logps import token_logps
from ..losses import LossFunction
from ..models.load import compute_dtype
from ..models.unprompted_texts import OwnText
from ..optimizers import PAIRS_RATE, OptimizerConfig, optimizer_at
from ..training.checked_rows import END, longest_row, sample_pairs, sample_rows, shortened
from ..training.forward_errors import block_gradient, in_float32, own_logps, widens_cheaply
from ..training.layout import Layout
from ..training.rehearsal import KEPT, Rehearsed, divergence_gradient
from ..training.step import pair_gradient
from ..upstream import UpstreamError
from .graph_operations import Graph, placeholders, trace
from .liveness import Moment, moments, spare
from .model_without_weights import Skeleton

LAYOUTS = [Layout(False, False), Layout(False, True), Layout(True, False), Layout(True, True)]
"""From the fastest to the one that needs the least memory."""
_FACTOR = 1.1
"""Factor on everything except weights, adapter and optimiser state: in the 74 combinations of docs/plan.md,
up to 1.08 times the count of `liveness.py` was measured."""

_SEARCHED = 64
"""This many times the micro-batch size is the number of rows searched for the most demanding ones."""


class Need(NamedTuple):
    """Peak memory of a training step by part, in bytes.

    `adapter`: trained parameters and their gradients; `activations`: arrays of the blocks; `head`: embedding,
    logits and loss; `state`: what prompts pass on to their answers.
    """

    weights: int
    adapter: int
    optimizer: int
    activations: int
    head: int
    state: int

    @property
    def peak(self) -> int:
        """The sum of all parts."""
        return sum(self)


def forward_of(setting: str, layout: Layout, bucket: int = 1) -> list[Forward]:
    """The forwards that a run would try, the best first; `setting` may also be "completion"."""
    if setting in (PLAIN.name, COMPLETION.name):
        return [PLAIN if setting == PLAIN.name else COMPLETION]
    build = partial(build_shared, separate=layout.separate, bucket=bucket)
    shared = (SEPARATE if layout.separate else SHARED)._replace(build=build)
    return [shared] if setting == "shared" else [shared, COMPLETION, PLAIN]


def need(
    skeleton: Skeleton,
    pairs: Sequence[TokenizedPair],
    micro_batch: int,
    layout: Layout,
    forward: str,
    loss: LossFunction,
    optimizer: OptimizerConfig,
    *,
    kept: int = 1,
    bucket: int = 1,
    rehearsal: OwnText | None = None,
    device: mx.DeviceType | None = None,
) -> Need:
    """Peak memory of an update, over the micro-batches that need the most.

    Args:
        forward: the setting; for auto, the first forward that the model's own code allows.
        kept: number of copies of the trained parameters, besides the gradient being computed.
        bucket: lengths are padded to multiples of this.
        rehearsal: the longest rehearsal text that updates use.
        device: of the run; by default the present device.

    Raises:
        TypeError, ValueError, AttributeError, KeyError, IndexError, RuntimeError: the model cannot be traced.
    """
    device = device or mx.default_device().type
    steps = first_possible(
        forward_of(forward, layout, bucket),
        lambda choice: [
            _step(skeleton, batch, layout, choice, loss, device) for batch in largest(pairs, micro_batch)
        ],
    )
    if rehearsal:
        steps.append((*_rehearsal(skeleton, rehearsal, layout, device), 0))
    blocks, head, state = max(steps, key=lambda step: step[0] + step[1])
    held = _optimizer_bytes(skeleton, optimizer)
    adapter = skeleton.trained * (1 + kept) + _spare(skeleton)
    step = Need(skeleton.weights, adapter, held, max(0, blocks - state), head, min(state, blocks))
    last = _update(skeleton, optimizer, held, device)
    return last if last.peak > step.peak else step


def scoring_need(
    skeleton: Skeleton,
    pairs: Sequence[TokenizedPair],
    held: Sequence[TokenizedPair] | None,
    forward: str,
    loss: LossFunction,
    optimizer: OptimizerConfig,
    device: mx.DeviceType,
) -> Need:
    """Peak memory of the work outside updates: checks at the start, longer held-out pairs.

    Raises:
        TypeError, ValueError, AttributeError, KeyError, IndexError, RuntimeError: the model cannot be traced.
    """
    model, longest = skeleton.model, pair_sizes(pairs).sum(axis=1).max()
    longer = held if held is not None and pair_sizes(held).sum(axis=1).max() > longest else None
    forwards = forward_of(forward, LAYOUTS[0])
    sample, long = sample_pairs(pairs), longest_row(pairs, int(longest))
    widest, short = max(pair.tokens for pair in sample), shortened(sample[0])
    checks = [_scored(skeleton, forwards, [pairs[i] for i in sample_rows(pairs)], device)]
    wide, fast = compute_dtype(model) != mx.float32, forward != PLAIN.name
    with in_float32(model) if wide else nullcontext():
        checks += _own_call(skeleton, max(widest, long.tokens if fast else 0), max(widest, END), device)
        if wide and widens_cheaply(model):
            checks.append(_proof(skeleton, short, device))
        if fast:
            checks.append(_scored(skeleton, [COMPLETION, PLAIN], [long], device))
    checks.append(_proof(skeleton, short, device))
    blocks, head = max(checks, key=sum)
    found = [Need(skeleton.weights, skeleton.trained, 0, blocks, head, 0)]
    if longer:
        state = _optimizer_bytes(skeleton, optimizer)
        for batch in largest(longer, 1):
            blocks, head = _scored(skeleton, forwards, batch, device)
            found.append(Need(skeleton.weights, skeleton.trained, state, blocks, head, 0))
    return max(found, key=lambda need: need.peak)


def _scored(
    skeleton: Skeleton, forwards: Sequence[Forward], pairs: Sequence[TokenizedPair], device: mx.DeviceType
) -> tuple[int, int]:
    """Peak bytes of scoring a batch, in the blocks and elsewhere."""
    model = skeleton.model
    model.eval()

    def top(forward):
        batch = forward.build(pairs)
        with chunks_as_on(device):
            graph = trace(
                lambda: forward.score(model, batch, gradient=False),
                blocks=model.layers,
                alike=skeleton.places,
                forget=lambda: model.update(skeleton.parameters),
            )
        return _top(skeleton, graph, device)

    return first_possible(forwards, top)


def _proof(skeleton: Skeleton, pair: TokenizedPair, device: mx.DeviceType) -> tuple[int, int]:
    """Peak bytes of the gradient that checks a forward, in the blocks and elsewhere."""
    model = skeleton.model
    return _traced(skeleton, lambda: block_gradient(model, lambda: own_logps(model, pair, 0).sum()), device)


def _own_call(skeleton: Skeleton, tokens: int, scored: int, device: mx.DeviceType) -> list[tuple[int, int]]:
    """Peak bytes of the model's own call on `tokens` tokens: of its body, and of its head after that.

    Args:
        scored: the head uses at most this number of tokens, the last ones.
    """
    model, inputs = skeleton.model, mx.zeros((1, tokens), mx.int32)
    model.eval()
    try:
        hidden = placeholders(hidden_states(model, inputs)[0, -scored:])
    except TypeError:  # the model is not in two parts
        return [_traced(skeleton, lambda: token_logps(model(inputs), inputs), device)]
    targets = inputs[0, : len(hidden)]
    return [
        _traced(skeleton, lambda: hidden_states(model, inputs), device),
        _traced(skeleton, lambda: token_logps(head(model, hidden), targets), device),
    ]


def _traced(skeleton: Skeleton, computed: Callable[[], Any], device: mx.DeviceType) -> tuple[int, int]:
    """Peak bytes of what a check computes, in the blocks and elsewhere."""
    model = skeleton.model
    with chunks_as_on(device):
        graph = trace(
            computed,
            blocks=model.layers,
            alike=skeleton.places,
            forget=lambda: model.update(skeleton.parameters),
        )
    return _top(skeleton, graph, device)


def first_possible(forwards: Sequence[Forward], look: Callable[[Forward], Any]) -> Any:
    """The result of `look` for the first forward that the model's own code allows."""
    for forward in forwards:
        try:
            return look(forward)
        except (TypeError, AttributeError, ValueError, IndexError, UpstreamError) as error:
            problem = error
    raise problem


def largest(pairs: Sequence[TokenizedPair], micro_batch: int) -> list[list[TokenizedPair]]:
    """Micro-batches that may need the most memory, the one with the most tokens first.

    Blocks need memory for every token, attention for long rows, and the head for every answer token.
    """
    sizes = pair_sizes(pairs).astype(np.int64)
    tokens, answers = sizes.sum(axis=1), sizes[:, 1:].sum(axis=1)
    longest = sizes[:, 0] + sizes[:, 1:].max(axis=1)
    found = dict.fromkeys(
        tuple(sorted(_under_own_prompts(pairs, np.argsort(-most, kind="stable"), micro_batch)))
        for most in (tokens, tokens + answers, answers, longest)
    )
    return [[pairs[i] for i in rows] for rows in found]


def _under_own_prompts(pairs: Sequence[TokenizedPair], order: np.ndarray, count: int) -> list[int]:
    """The first `count` rows with different prompts, filled up with others: a shared prompt counts once."""
    first: dict[bytes, int] = {}
    for row in map(int, order[: _SEARCHED * count]):
        first.setdefault(pairs[row].prompt.tobytes(), row)
    rows = list(first.values())[:count]
    return rows + [i for i in map(int, order[:count]) if i not in rows][: count - len(rows)]


def _step(
    skeleton: Skeleton,
    pairs: Sequence[TokenizedPair],
    layout: Layout,
    forward: Forward,
    loss: LossFunction,
    device: mx.DeviceType,
) -> tuple[int, int, int]:
    """Peak bytes of one micro-batch: in the blocks, elsewhere, and the part that is the prompts' state."""
    model = skeleton.model
    gradient = pair_gradient(model, loss, forward)
    model.train()

    def forget():
        model.update(skeleton.parameters)

    with chunks_as_on(device):
        batch = gradient.build(pairs)
        reference, beta = mx.zeros((len(pairs), 2)), mx.array(0.1)
        graph = trace(
            lambda: gradient.compute(batch, reference, beta, mx.array(1.0)),
            blocks=model.layers,
            alike=skeleton.places,
            recomputed=layout.checkpointing,
            forget=forget,
        )
    state = _state_bytes(skeleton, batch) if isinstance(batch, SharedBatch) else 0
    forget()
    return (*_top(skeleton, graph, device), state)


def _rehearsal(
    skeleton: Skeleton, longest: OwnText, layout: Layout, device: mx.DeviceType
) -> tuple[int, int]:
    """Peak bytes of the gradient on one rehearsal text, in the blocks and elsewhere."""
    model, kept = skeleton.model, np.zeros((len(longest.tokens) - longest.start, KEPT))
    text = Rehearsed(*longest, kept.astype(np.int32), kept.astype(np.float32))
    model.train()
    with chunks_as_on(device):
        graph = trace(
            lambda: divergence_gradient(model, text),
            blocks=model.layers,
            alike=skeleton.places,
            recomputed=layout.checkpointing,
            forget=lambda: model.update(skeleton.parameters),
        )
    return _top(skeleton, graph, device)


def _top(skeleton: Skeleton, graph: Graph, device: mx.DeviceType) -> tuple[int, int]:
    """Peak bytes, in all real blocks and elsewhere."""
    seen = moments(graph, gpu=device == mx.gpu)
    inside, outside = max(
        (
            (sum(m.blocks.values()) - m.blocks.get(None, 0) + more, m.blocks.get(None, 0))
            for m, more in zip(seen, _left_out(skeleton, seen), strict=True)
        ),
        key=sum,
    )
    return int(_FACTOR * inside), int(_FACTOR * outside)


def _left_out(skeleton: Skeleton, seen: Sequence[Moment]) -> list[int]:
    """At every moment, the bytes of left-out blocks: each as much as the idlest block of its kind."""
    extra = [0] * len(seen)
    for places, number in skeleton.alike:
        if number == len(places):
            continue
        least = [min(m.blocks.get(place, 0) for place in places) for m in seen]
        if len(places) == 1:  # it may be running itself: at most what it holds while the head runs
            most = max((n for n, m in zip(least, seen, strict=True) if m.block is None), default=0)
            least = [min(n, most) for n in least]
        extra = [more + (number - len(places)) * n for more, n in zip(extra, least, strict=True)]
    return extra


def _state_bytes(skeleton: Skeleton, batch: SharedBatch) -> int:
    """Bytes that all real blocks pass on from the prompts of one family."""
    most = 0
    for family in batch.families:
        with lean():
            state = prompt_state(skeleton.model, family)
        sizes = [sum(a.nbytes for a in memory.arrays() if a is not None) for memory in state]
        if len(sizes) == len(skeleton.model.layers):
            total = sum(number * sizes[places[0]] for places, number in skeleton.alike)
            most = max(most, total)
    return most


def _spare(skeleton: Skeleton) -> int:
    """By how much the buffers of trained parameters, gradients and optimiser state exceed the arrays.

    The maximum for one copy: for all copies, about a quarter of their maximum was measured.
    """
    sizes = [v.nbytes for _, v in tree_flatten(skeleton.model.trainable_parameters())]
    return skeleton.trained * sum(map(spare, sizes)) // max(1, sum(sizes))


def _optimizer_bytes(skeleton: Skeleton, config: OptimizerConfig) -> int:
    """State of the optimiser, for all real blocks."""
    model, optimizer = skeleton.model, optimizer_at(config, PAIRS_RATE)
    optimizer.init(model.trainable_parameters())
    own = sum(v.nbytes for _, v in tree_flatten(model.trainable_parameters()))
    held = sum(v.nbytes for _, v in tree_flatten(optimizer.state))
    return int(held * skeleton.trained / max(1, own))


def _update(skeleton: Skeleton, config: OptimizerConfig, held: int, device: mx.DeviceType) -> Need:
    """Peak of the optimiser's part, with the mean gradient in memory."""
    model, optimizer = skeleton.model, optimizer_at(config, PAIRS_RATE)
    parameters = model.trainable_parameters()
    optimizer.init(parameters)
    state = placeholders(optimizer.state)
    mean = placeholders(parameters)
    given = [parameters, state]

    def run(*arrays):
        own, optimizer.state = filled(given, arrays)
        gradient, _ = optimizers.clip_grad_norm(mean, 1.0)
        return optimizer.apply_gradients(gradient, own), optimizer.state

    graph = trace(run, arrays_of(given))
    own = sum(v.nbytes for _, v in tree_flatten(parameters))
    top = max(sum(m.blocks.values()) for m in moments(graph, gpu=device == mx.gpu))
    rest = max(0, int(top * skeleton.trained / max(1, own)) - skeleton.trained - held)
    return Need(skeleton.weights, 2 * skeleton.trained, held, int(_FACTOR * rest), 0, 0)
