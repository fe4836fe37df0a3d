"""Experiment trackers for a run's metrics: wandb, trackio and tensorboard, each through its own library.

A tracker always shows the same series as metrics.jsonl: when a process opens a tracker, the tracker's older
files in the run's folder are replaced, the rows of metrics.jsonl are written again, and new rows follow.
"""

import io
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from ..console import say
from ..errors import DpoError, first_line

Row = dict[str, float]
"""A line of metrics.jsonl: `step`, and metrics at this step."""

_PROJECT = "mlx-dpo"
_PATIENCE_SECONDS = 60.0
"""How long a run waits for wandb.ai at its start, and for uploads at its end."""


class Sink(NamedTuple):
    """An open tracker: `row` takes a line of metrics.jsonl, `close` whether the run ended without error."""

    row: Callable[[Row], None]
    close: Callable[[bool], None]


def _wandb(folder: Path, config: dict[str, Any]) -> Sink:
    """A new run at wandb.ai or, with WANDB_MODE=offline, one in the folder for `wandb sync`."""
    import wandb

    settings = wandb.Settings(
        console="off",
        silent=True,
        disable_git=True,
        save_code=False,
        init_timeout=_PATIENCE_SECONDS,
        finish_timeout=_PATIENCE_SECONDS,
        finish_timeout_raises=True,
    )
    project = os.environ.get("WANDB_PROJECT", _PROJECT)
    run = wandb.init(
        project=project,
        name=folder.name,
        dir=folder,
        config=config,
        settings=settings,
        reinit="create_new",
    )
    # Every row is a line of wandb's history, with `step` in it as the axis. With wandb's step, rows of the
    # same step would be merged and written only when the next step comes: the last one would be lost.
    run.define_metric("*", step_metric="step")
    place = shlex.join(["wandb", "sync", run.settings.sync_dir]) if run.offline else run.url
    if place:  # there is none with WANDB_MODE=disabled
        say(f"wandb: {place}")
    return Sink(run.log, lambda exit_ok: run.finish(exit_code=0 if exit_ok else 1))


def _trackio(folder: Path, config: dict[str, Any]) -> Sink:
    """A new run in a SQLite file of the folder, or in TRACKIO_SPACE_ID; no server is started."""
    place = (folder / "trackio").absolute()
    # It looks for its folder once, when it is imported; a process may have several runs.
    os.environ["TRACKIO_DIR"] = str(place)
    for module in [name for name in sys.modules if name.split(".")[0] == "trackio"]:
        del sys.modules[module]
    with redirect_stdout(io.StringIO()):  # trackio prints to stdout, which is for results
        import trackio

        run = trackio.init(_PROJECT, name=folder.name, config=config, embed=False)
    say(f"trackio: TRACKIO_DIR={shlex.quote(str(place))} trackio show --project {_PROJECT}")

    def row(metrics: Row) -> None:
        run.log({name: value for name, value in metrics.items() if name != "step"}, step=metrics["step"])

    def close(exit_ok: bool) -> None:
        with redirect_stdout(io.StringIO()):
            trackio.finish()

    return Sink(row, close)


def _tensorboard(folder: Path, config: dict[str, Any]) -> Sink:
    """An event file; its numbers are float32. The settings are not in it, they are in config.yaml."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    place = folder / "tensorboard"
    place.mkdir(parents=True)
    # Not EventFileWriter, which writes in a thread: if that thread dies of a full disk, rows wait for ever.
    file = open(place / f"events.out.tfevents.{int(time.time())}.mlx_dpo", "wb")  # noqa: SIM115
    writer = RecordWriter(file)

    def write(**fields: Any) -> None:
        writer.write(Event(wall_time=time.time(), **fields).SerializeToString())
        writer.flush()

    def row(metrics: Row) -> None:
        values = [Summary.Value(tag=n, simple_value=v) for n, v in metrics.items() if n != "step"]
        write(step=metrics["step"], summary=Summary(value=values))

    write(file_version="brain.Event:2")
    say(f"tensorboard: tensorboard --logdir {shlex.quote(str(place))}")
    return Sink(row, lambda exit_ok: writer.close())


TRACKERS: dict[str, Callable[[Path, dict[str, Any]], Sink]] = {
    "wandb": _wandb,
    "trackio": _trackio,
    "tensorboard": _tensorboard,
}
"""Functions (run's folder, settings) -> Sink, by the name of the library and of its folder."""


def check_trackers(names: Iterable[str]) -> None:
    """Check, before slow work, that the libraries of these trackers are installed; ignore other names.

    Raises:
        DpoError: a library is not installed, or wandb has no login.
    """
    for name in names:
        if name in TRACKERS and not is_installed(name):
            raise DpoError(
                f"{name} is not installed", where="run.report_to", hint="pip install 'mlx-dpo[track]'"
            )
        if name == "wandb":
            _check_login()


def is_installed(library: str) -> bool:
    """Whether Python finds the library; a folder of its name, such as wandb/ after a run, does not count."""
    found = find_spec(library)
    return found is not None and found.origin is not None


def _check_login() -> None:
    import wandb

    if wandb.setup().settings.mode != "online":
        return
    try:
        wandb.login()  # on a terminal this asks for the key now, not in the middle of a run
    except wandb.Error as error:
        raise DpoError(
            f"wandb: {first_line(error)}",
            where="run.report_to",
            hint="run wandb login, or put WANDB_MODE=offline in front of the command",
        ) from None


class Trackers:
    """Open trackers by name, as a context manager. A tracker that fails is switched off, with a message."""

    def __init__(self, sinks: dict[str, Sink]):
        self._sinks = sinks

    def row(self, metrics: Row) -> None:
        """Hand on a line of metrics.jsonl."""
        for name, sink in list(self._sinks.items()):
            with _switched_off_by_failure(name, self._sinks):
                sink.row(metrics)

    def close(self, exit_ok: bool) -> None:
        """End every tracker's run, as finished or as failed."""
        for name, sink in list(self._sinks.items()):
            with _switched_off_by_failure(name, self._sinks):
                sink.close(exit_ok)
        self._sinks = {}

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        self.close(exit_ok=kind is None)


def open_trackers(
    names: Iterable[str], folder: Path, config: dict[str, Any], earlier: Sequence[Row]
) -> Trackers:
    """Begin a run in each of these trackers, with the rows that metrics.jsonl already has.

    Args:
        names: as in `run.report_to`; names that are not trackers are ignored.
        folder: the run's folder; older files of a tracker in it are replaced.
        config: the run's settings, nested and plain.
    """
    sinks: dict[str, Sink] = {}
    for name in names:
        if name in TRACKERS:
            with _switched_off_by_failure(name, sinks):
                shutil.rmtree(folder / name, ignore_errors=True)
                sinks[name] = TRACKERS[name](folder, config)
                for row in earlier:
                    sinks[name].row(row)
    return Trackers(sinks)


@contextmanager
def _switched_off_by_failure(name: str, sinks: dict[str, Sink]) -> Iterator[None]:
    """After any error of a tracker's library, continue the run without it: metrics.jsonl has every row."""
    try:
        yield
    except Exception as error:
        sinks.pop(name, None)
        say(f"{name} failed and is switched off; metrics.jsonl is still written: {first_line(error)}")
