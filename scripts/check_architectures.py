"""Is the fast forward exact on every architecture of the installed mlx_lm? Each is built tiny and tried.

    python scripts/check_architectures.py                              the page with its table, as Markdown
    python scripts/check_architectures.py --only llama mamba2 --json
    python scripts/check_architectures.py --write docs/architectures.md

A run's start-up checks choose the forward, for the model as it is and with checkpointed blocks. Then scores
and the gradient of every trained parameter are compared with those of the model's own call on single
sequences, without padding, cache or checkpointing. A forward that was chosen and is not exact is a wrong
result; the exit status is 1 if there is one.
"""

import argparse
import contextlib
import json
import multiprocessing
import queue
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import mlx_dpo  # noqa: F401  (loads the fast BLAS, so it comes before MLX)

# isort: split
import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_map
from tiny_architectures import TOKENS, architectures, build

from mlx_dpo.data.tokenize import TokenizedPair
from mlx_dpo.errors import DpoError, first_line
from mlx_dpo.models.adapters import AdapterConfig, attach
from mlx_dpo.models.checkpointing import checkpoint_layers
from mlx_dpo.models.forward import COMPLETION, SEPARATE, SHARED, Forward
from mlx_dpo.training.checks import check_batching, choose_forward, disagreement

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


class Worker:
    """A process that tries one architecture after another; a new one where it ended or took too long."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    def trial(self, name: str) -> Result:
        """As `trial`, in that process."""
        self.connection.send(name)
        try:
            if self.connection.poll(self.seconds):
                return self.connection.recv()
            problem = f"no result within {self.seconds:.0f} s"
        except EOFError:
            problem = "its process ended"
        self.process.kill()
        self._start()
        return Result(name, forward="no result", wrong=problem)


def serve(connection: Any) -> None:
    """Try the architectures whose names arrive, until none can come any more."""
    with contextlib.suppress(EOFError):
        while True:
            connection.send(trial(connection.recv()))


def trials(names: Sequence[str], processes: int, seconds: float) -> Iterator[Result]:
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


def page(results: Sequence[Result], helpers: int, versions: str) -> str:
    """docs/architectures.md.

    Args:
        helpers: how many of mlx_lm's modules define no architecture.
        versions: of what the results are.
    """
    built = [r for r in results if r.built]
    shared = sum(r.shared for r in built)
    trainable = sum(r.forward != NOT_TRAINABLE for r in built)
    wrong = [r for r in results if r.wrong]
    counts = [
        f"{len(results)} architectures ({helpers} modules of mlx_lm that define none are left out)",
        f"{len(built)} built, {trainable} of them trainable at all",
        f"shared: {shared} ({shared / max(1, len(built)):.0%} of those built)",
        f"fell back: {trainable - shared}",
        f"wrong results: {len(wrong)}",
    ]
    return "\n".join(
        [
            "# Architectures",
            "",
            _ABOUT.format(versions=versions, scores=SCORES, gradient=GRADIENT),
            "",
            *(f"- {count}" for count in counts),
            "",
            "| architecture | remembers in | forward | checkpointed | scores | gradient | remark |",
            "|---|---|---|---|---|---|---|",
            *(row(r) for r in results),
            "",
        ]
    )


_ABOUT = """\
How pairs are scored while training, for every text architecture that mlx_lm has: each is built with four
small blocks and random float32 weights, and tried by `scripts/check_architectures.py` ({versions}).
A run finds out by itself which way is exact on the user's model and pairs; no list of names decides.

- **shared**: every prompt is computed once for its answers.
- **completion**: whole sequences, logits of answers only.
- **plain**: the model's own call.
- **refused**: training stops at the start, with the reason.
- **not trainable**: mlx_lm's own code gives no gradient, or none that means anything.
- **not buildable**: here, on a CPU.

On a Mac, mlx_lm computes `rwkv7` with a Metal kernel that has no gradient: a run is refused at its start.

*Checkpointed* is what is chosen with gradient checkpointing on. Whatever was chosen is compared with the
model's own call on single sequences: *scores* is the largest difference in nats (allowed: {scores[0]} +
{scores[1]} of the value), *gradient* that of the whole gradient as a share of its size (allowed: {gradient}).
More would be a wrong result. Windows and chunks are shorter than the texts."""


def row(r: Result) -> str:
    """One line of the table."""
    figures = [f"{r.scores:.0e}", f"{r.gradient:.0e}"] if r.checkpointed else ["", ""]
    remark = f"**wrong: {r.wrong}**; {r.remark}".rstrip("; ") if r.wrong else r.remark
    cells = [f"`{r.name}`", r.memory, r.forward, r.checkpointed, *figures, remark.replace("|", "/")]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="architectures to try; all by default")
    parser.add_argument("--json", action="store_true", help="print results as JSON")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page there")
    parser.add_argument("--processes", type=int, default=2, help="architectures tried at a time (2)")
    parser.add_argument("--seconds", type=float, default=120.0, help="how long one may take (120)")
    options = parser.parse_args()
    names, helpers = architectures()
    results = []
    for result in trials(options.only or names, options.processes, options.seconds):
        results.append(result)
        print(row(result), f"{result.seconds:.1f} s", file=sys.stderr)
    versions = ", ".join(f"{name} {version(name)}" for name in ("mlx", "mlx-lm"))
    text = page(results, len(helpers), versions)
    if options.write:
        options.write.parent.mkdir(exist_ok=True)
        options.write.write_text(text)
    print(json.dumps([asdict(r) for r in results], indent=1) if options.json else text)
    sys.exit(any(r.wrong for r in results))


if __name__ == "__main__":
    main()
