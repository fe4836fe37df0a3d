"""Is the fast forward exact on every architecture of the installed mlx_lm? Each is built tiny and tried.

    python scripts/check_architectures.py                                  the table, as Markdown
    python scripts/check_architectures.py --only llama --only mamba2 --json
    python scripts/check_architectures.py --write docs/architectures.md

The start-up proof of a training run (`training.checks.disagreement`) chooses the forward, on the model as it is
and with checkpointed blocks. Scores and the gradient of every trained parameter are then compared with those of
the model's own call on single sequences. A forward that was chosen and is not exact is a wrong result.
"""

import json
import multiprocessing
import queue
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import mlx_dpo  # noqa: F401  (loads the fast BLAS, so it comes before MLX)

# isort: split
import click
import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_map
from tiny_architectures import TOKENS, architectures, build

from mlx_dpo.data.tokenize import TokenizedPair
from mlx_dpo.errors import DpoError, first_line
from mlx_dpo.models.adapters import AdapterConfig, attach
from mlx_dpo.models.checkpointing import checkpoint_layers
from mlx_dpo.models.forward import COMPLETION, PLAIN, SEPARATE, SHARED, Forward
from mlx_dpo.training.checks import check_batching, disagreement

LENGTHS = ((45, 30, 17), (20, 5, 30), (44, 29, 18))
"""Tokens of prompt, chosen and rejected. The first and the last pair are computed together."""
SCORES, GRADIENT = (1e-3, 1e-5), 1e-4
"""How far scores may differ, in nats and as a share; how far a whole gradient may, as a share of its size."""
_TWO_TOKENS = mx.zeros((1, 2), mx.int32)


NOT_BUILDABLE, NOT_TRAINABLE, REFUSED = "not buildable", "not trainable", "refused"


@dataclass
class Result:
    """What became of one architecture.

    `forward` and `checkpointed`: which forward the start-up checks chose, without and with checkpointed blocks,
    or why none. `remark`: why not shared. `wrong`: where a chosen forward is not exact. `scores` (nats) and
    `gradient` (share of its size): the largest differences from the model's own call.
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
    def shared(self) -> bool:
        """Whether every prompt is computed once, also with checkpointed blocks."""
        return self.forward == self.checkpointed == SHARED.name


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
        truths = [own_call(model, pair) for pair in pairs]
    except (Exception, SystemExit) as error:
        result.remark = in_a_line(error)
        return result
    try:
        result.forward = chosen(model, pairs, truths, result)
        checkpoint_layers(model)
        result.checkpointed = chosen(model, pairs, truths, result)
    except Exception as error:
        result.wrong = in_a_line(error)
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
        model = built(name)
        attach(model, AdapterConfig(rank=4, targets=called_only(model)))
        result.remark = f"with adapter.targets=all: {first_line(error)}"
    for module in model.modules():
        if "lora_b" in module:
            module.lora_b = tree_map(lambda b: 0.1 * mx.random.normal(b.shape), module.lora_b)
    model.train()
    mx.eval(model.parameters())
    return model


def called_only(model: nn.Module) -> list[str]:
    """Names, inside a block, of linear layers that are called and whose weight no other module reads."""
    read = set()

    def watched(kind: type, name: str) -> type:
        return type(kind.__name__, (kind,), {"weight": property(lambda self: read.add(name) or self["weight"])})

    linear = {
        name: [layer for block in model.layers for n, layer in block.named_modules() if n == name]
        for block in model.layers
        for name, layer in block.named_modules()
        if isinstance(layer, nn.Linear)
    }
    kinds = {name: type(layers[0]) for name, layers in linear.items()}
    for name, layers in linear.items():
        for layer in layers:
            layer.__class__ = watched(kinds[name], name)
    mx.eval(model(_TWO_TOKENS))
    for name, layers in linear.items():
        for layer in layers:
            layer.__class__ = kinds[name]
    return sorted(set(linear) - read)


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


def own_call(model: nn.Module, pair: TokenizedPair) -> Truth:
    """By `model(tokens)`: no padding, no cache, nothing replaced."""

    def score(completion):
        tokens = mx.array(np.concatenate([pair.prompt, completion]))[None]
        logits = model(tokens[:, :-1])[0, len(pair.prompt) - 1 :].astype(mx.float32)
        logps = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        return mx.take_along_axis(logps, tokens[0, len(pair.prompt) :, None], axis=-1).sum()

    return Truth(*with_gradient(model, lambda: mx.stack([score(pair.chosen), score(pair.rejected)])))


def with_gradient(
    model: nn.Module, score: Callable[[], mx.array]
) -> tuple[np.ndarray, dict[str, mx.array]]:
    """Scores (2, B), chosen first, and the gradient of all chosen ones minus half of all rejected ones."""
    parameters = model.trainable_parameters()

    def summed(_):
        scores = score().reshape(2, -1)
        return (scores * mx.array([[1.0], [-0.5]])).sum(), scores

    (_, scores), gradient = nn.value_and_grad(model, summed)(model)
    model.update(parameters)
    mx.eval(scores, gradient)
    return np.array(scores), dict(tree_flatten(gradient))


def chosen(model: nn.Module, pairs: Sequence[TokenizedPair], truths: Sequence[Truth], result: Result) -> str:
    """Name of the forward that the start-up checks choose; what is found about it goes into `result`."""
    forward, everything = PLAIN, list(range(len(pairs)))
    for candidate in (SHARED, COMPLETION):
        problem = disagreement(model, pairs, candidate)
        if problem is None:
            forward = candidate
            break
        result.remark = result.remark or problem
    try:
        check_batching(model, pairs, forward)
    except DpoError as error:
        result.remark = error.what
        return REFUSED
    batches = [(forward, [i]) for i in everything] + [(forward, everything)]
    for kind, rows in [*batches, (SEPARATE, everything)] if forward is SHARED else batches:
        problem = difference(model, [pairs[i] for i in rows], [truths[i] for i in rows], kind, result)
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
    squares, error = 0.0, 0.0
    for name, ours in gradient.items():
        theirs = sum(t.gradient[name] for t in truths)
        squares += mx.square(theirs).sum().item()
        error += mx.square(ours - theirs).sum().item()
    share = (error / squares) ** 0.5
    result.scores = max(result.scores, float(apart.max()))
    result.gradient = max(result.gradient, share)
    if not (apart <= SCORES[0] + SCORES[1] * np.abs(expected)).all():
        return f"scores differ by {apart.max():.2g} nats"
    return None if share <= GRADIENT else f"gradients differ by {share:.2g} of their size"


class Worker:
    """A process that tries one architecture after another; a new one where it crashed or took too long."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.start()

    def start(self) -> None:
        """Start the process."""
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    def trial(self, name: str) -> Result:
        """As `trial`, elsewhere."""
        self.connection.send(name)
        try:
            if self.connection.poll(self.seconds):
                return self.connection.recv()
            problem = f"no result within {self.seconds:.0f} s"
        except EOFError:
            problem = "its process ended"
        self.process.kill()
        self.start()
        return Result(name, wrong=problem)


def serve(connection: Any) -> None:
    """Try the architectures whose names arrive."""
    while True:
        connection.send(trial(connection.recv()))


def trials(names: Iterable[str], processes: int, seconds: float) -> Iterator[Result]:
    """A result for every name, in their order."""
    workers: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    for _ in range(processes):
        workers.put(Worker(seconds))

    def run(name: str) -> Result:
        worker = workers.get()
        try:
            return worker.trial(name)
        finally:
            workers.put(worker)

    with ThreadPoolExecutor(processes) as threads:
        yield from threads.map(run, names)


@click.command()
@click.option("--only", multiple=True, metavar="NAME", help="an architecture to try; all by default")
@click.option("--json", "as_json", is_flag=True, help="results as JSON")
@click.option("--write", type=click.Path(path_type=Path), help="write the page there")
@click.option("--processes", default=2, help="architectures tried at a time")
@click.option("--seconds", default=120.0, help="how long one architecture may take")
def main(only: tuple[str, ...], as_json: bool, write: Path | None, processes: int, seconds: float) -> None:
    names, helpers = architectures()
    results = []
    for r in trials(only or names, processes, seconds):
        click.echo(f"{r.name:24} {r.forward:10} {r.checkpointed:10} {'WRONG ' + r.wrong if r.wrong else ''} {r.remark} {r.scores:.1e} {r.gradient:.1e} {r.seconds:.1f}s {r.memory}", err=True)
        results.append(r)


if __name__ == "__main__":
    main()
