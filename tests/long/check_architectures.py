"""Is the fast forward exact on every architecture of the installed mlx_lm? Each is built tiny and tried.

    python -m tests.long.check_architectures                              the page with its table, as Markdown
    python -m tests.long.check_architectures --only llama mamba2 --json
    python -m tests.long.check_architectures --write docs/architectures.md

A run's start-up checks choose the forward, for the model as it is and with checkpointed blocks. One that was
chosen and is not exact is a wrong result; the exit status is 1 if there is one.
"""

import argparse
import contextlib
import json
import multiprocessing
import queue
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..support.architecture_trial import GRADIENT, NOT_TRAINABLE, SCORES, Result, trial
from ..support.tiny_architectures import architectures


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
            "| architecture | cache | forward | checkpointed | scores | gradient | remark |",
            "|---|---|---|---|---|---|---|",
            *(row(r) for r in results),
            "",
        ]
    )


_ABOUT = """\
How are pairs scored in training? This page shows it for every text architecture of mlx_lm. Each is built
with four small blocks and random float32 weights, and tried by `tests/long/check_architectures.py`
({versions}). A run uses no such list: it finds out at its start which way is exact on your model and
your pairs.

- **shared**: every prompt is computed once for both of its answers.
- **completion**: whole sequences are computed, logits of answers only.
- **plain**: the model's own call.
- **refused**: training stops at the start, with the reason.
- **not trainable**: mlx_lm's own code gives no gradient, or none that means anything.
- **not buildable**: the architecture cannot be built here, on a CPU.

On a Mac, mlx_lm computes `rwkv7` with a Metal kernel that has no gradient: a run is refused at its
start.

*Checkpointed* is the way that is chosen with gradient checkpointing. The chosen way is compared with the
model's own call on single sequences. *Scores* is the largest difference in nats (allowed: {scores[0]} +
{scores[1]} of the value), and *gradient* is the difference of the whole gradient as a share of its size
(allowed: {gradient}). More would be a wrong result. Sliding windows and chunks are shorter than the
texts."""


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
