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
from mlx.utils import tree_flatten
from tiny_architectures import VOCABULARY, architectures, build

from mlx_dpo.data.tokenize import TokenizedPair
from mlx_dpo.errors import first_line
from mlx_dpo.models.adapters import AdapterConfig, attach
from mlx_dpo.models.checkpointing import checkpoint_layers
from mlx_dpo.models.forward import COMPLETION, PLAIN, SEPARATE, SHARED, Forward
from mlx_dpo.training.checks import disagreement

LENGTHS = ((45, 30, 17), (20, 5, 30), (44, 29, 18))
"""Tokens of prompt, chosen and rejected. The first and the last pair are computed together."""
SCORES, GRADIENT = (1e-3, 1e-5), 1e-4
"""How far scores may differ, in nats and as a share; how far a whole gradient may, as a share of its size."""


@dataclass
class Result:
    """What became of one architecture.

    `forward` and `checkpointed` name the forwards that the proof chose without and with checkpointed blocks;
    both are empty where there was nothing to choose for. `reason` says why not shared, `wrong` where a chosen
    forward is not exact. `scores` (nats) and `gradient` (share of its size) are the largest differences seen.
    """

    name: str
    memory: str = ""
    forward: str = ""
    checkpointed: str = ""
    reason: str = ""
    wrong: str = ""
    scores: float = 0.0
    gradient: float = 0.0
    seconds: float = 0.0


class Truth(NamedTuple):
    """One pair by the model's own call on each sequence alone: scores (2, 1) and a gradient of their sum."""

    scores: np.ndarray
    gradient: dict[str, mx.array]


def trial(name: str) -> Result:
    """Build `name` tiny, ask the proof which forward is exact, and check its answer."""
    start, result, pairs = time.perf_counter(), Result(name), random_pairs()
    try:
        model = adapted(name)
        result.memory = memory_kinds(model)
        truths = [own_call(model, pair) for pair in pairs]
    except (Exception, SystemExit) as error:
        result.reason = f"{type(error).__name__}: {first_line(error)}"
        return result
    try:
        result.forward = tried(model, pairs, truths, result)
        checkpoint_layers(model)
        result.checkpointed = tried(model, pairs, truths, result)
    except Exception as error:
        result.wrong = f"{type(error).__name__}: {first_line(error)}"
    result.seconds = time.perf_counter() - start
    return result


def adapted(name: str) -> nn.Module:
    """The tiny model with LoRA on every linear layer, none of it zero."""
    mx.random.seed(0)
    model = build(name)
    mx.eval(model(mx.zeros((1, 2), mx.int32)))
    attach(model, AdapterConfig(rank=4))
    for module in model.modules():
        if "lora_b" in module:
            module.lora_b = 0.1 * mx.random.normal(module.lora_b.shape)
    model.train()
    mx.eval(model.parameters())
    return model


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
        TokenizedPair(*(rng.integers(1, VOCABULARY, n).astype(np.int32) for n in lengths), f"row {i}")
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


def tried(model: nn.Module, pairs: Sequence[TokenizedPair], truths: Sequence[Truth], result: Result) -> str:
    """Name of the forward that the proof chose; what is found about it goes into `result`."""
    chosen = PLAIN
    for forward in (SHARED, COMPLETION):
        problem = disagreement(model, pairs, forward)
        if problem is None:
            chosen = forward
            break
        result.reason = result.reason or problem
    everything = list(range(len(pairs)))
    batches = [(chosen, [i]) for i in everything] + [(chosen, everything)]
    for forward, rows in [*batches, (SEPARATE, everything)] if chosen is SHARED else batches:
        problem = difference(model, [pairs[i] for i in rows], [truths[i] for i in rows], forward, result)
        if problem and not result.wrong:
            result.wrong = f"{forward.name}, {len(rows)} pairs: {problem}"
    return chosen.name


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
        click.echo(f"{r.name:24} {r.forward:10} {r.checkpointed:10} {'WRONG ' + r.wrong if r.wrong else ''} {r.reason} {r.scores:.1e} {r.gradient:.1e} {r.seconds:.1f}s {r.memory}", err=True)
        results.append(r)


if __name__ == "__main__":
    main()
