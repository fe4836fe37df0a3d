"""What a run writes: for each report, a console line and a row of metrics.jsonl; also events.jsonl."""

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..console import plural, say
from ..errors import DpoError
from ..storage.files import sync, unwritable
from ..storage.jsonl import append_jsonl, read_jsonl, read_lines
from ..storage.reading import is_there, opened
from .alarms import Alarm
from .samples import SAMPLES

METRICS, EVENTS = "metrics.jsonl", "events.jsonl"
FILES = (METRICS, EVENTS, SAMPLES)
ALARM = "alarm"


class RunLog:
    """Appends rows to a run folder's files and prints the main figures on stderr."""

    def __init__(self, folder: Path, steps: int):
        self.folder, self.steps = folder, steps

    def row(self, metrics: dict[str, Any], line: str = "") -> None:
        """Write one report; keys of held-out metrics begin with eval/.

        Args:
            line: printed instead of the figures of a run on pairs.
        """
        append_jsonl(self.folder / METRICS, [metrics])
        say(line or (self._train_line(metrics) if "loss" in metrics else self._eval_line(metrics)))

    def note(self, step: int, event: str, what: str) -> None:
        """Write an event, and print it."""
        append_jsonl(self.folder / EVENTS, [{"step": step, "event": event, "what": what}])
        say(what)

    def alarm(self, step: int, alarm: Alarm) -> None:
        """Write an alarm, and print it."""
        told = {"name": alarm.name, "what": alarm.seen, "meaning": alarm.meaning, "remedy": alarm.remedy}
        append_jsonl(self.folder / EVENTS, [{"step": step, "event": ALARM, **told}])
        say(f"ALARM, {alarm.name}: {alarm.seen}\n  {alarm.meaning}\n  {alarm.remedy}")

    def rows(self) -> list[dict[str, float]]:
        """All rows of metrics so far."""
        return self._read(METRICS)

    def events(self) -> list[dict[str, Any]]:
        """All events so far."""
        return self._read(EVENTS)

    def _read(self, name: str) -> list[dict[str, Any]]:
        path = self.folder / name
        return [row for _, row in read_jsonl(path)] if is_there(path) else []

    def reported(self) -> bool:
        """Whether metrics.jsonl contains a report about training."""
        path = self.folder / METRICS
        return is_there(path) and any(b'"loss"' in line for _, _, line in read_lines(path))

    def sizes(self) -> dict[str, int]:
        """Size of each file in bytes, after writing everything to disk."""
        found = {}
        for path in (self.folder / name for name in FILES):
            if is_there(path):
                sync(path)
                found[path.name] = path.stat().st_size
        return found

    def check(self, sizes: Mapping[str, int]) -> None:
        """Check that a run can continue with the files: each has at least its size here and can be written.

        Raises:
            DpoError: a file is shorter, or cannot be written.
        """
        for path in (self.folder / name for name in FILES):
            size, now = sizes.get(path.name, 0), 0
            if is_there(path):
                with opened(path, "restore the file, or start anew with --overwrite") as file:
                    now = os.fstat(file.fileno()).st_size
                if not os.access(path, os.W_OK):
                    raise unwritable(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
            if now < size:
                raise DpoError(
                    f"has {plural(now, 'byte')}, but had {size:,} when the checkpoint was written",
                    where=path,
                    hint="restore the file, or start anew with --overwrite",
                )

    def rewind(self, sizes: Mapping[str, int]) -> None:
        """Cut the files to these sizes, which they had when a checkpoint was written.

        Raises:
            DpoError: as `check`, before any file is cut.
        """
        self.check(sizes)
        for path in (self.folder / name for name in FILES):
            if is_there(path):
                os.truncate(path, sizes.get(path.name, 0))

    def _train_line(self, m: dict[str, float]) -> str:
        return (
            f"step {m['step']:>{len(str(self.steps))}}/{self.steps}  loss {m['loss']:.4f}  "
            f"{_of_pairs(m, '')}{_of_texts(m)}"
            f"lr {m['learning_rate']:.1e}  grad {m['grad_norm']:.2f}  "
            f"{m['tokens_per_second']:,.0f} tokens/s  {m['peak_memory_gb']:.2f} GB"
        )

    def _eval_line(self, m: dict[str, float]) -> str:
        return (
            f"step {m['step']:>{len(str(self.steps))}}/{self.steps}  held-out (n {m['eval/pairs']}): "
            f"loss {m['eval/loss']:.4f}  {_of_pairs(m, 'eval/')}"
        ).rstrip()


def _of_texts(m: dict[str, float]) -> str:
    """The part of a line about rehearsed texts."""
    name = "rehearsal/divergence"
    return f"drift {m[name]:.3f}  " if name in m else ""


def _of_pairs(m: dict[str, float], prefix: str) -> str:
    """The part of a line about pairs; accuracy is a dash while the policy is unmoved and all pairs tie."""
    if f"{prefix}rewards/margins" not in m:
        return ""
    unmoved = m["step"] == (0 if prefix else 1)
    accuracy = "   -" if unmoved else f"{m[f'{prefix}rewards/accuracies']:.2f}"
    chosen = f"chosen {m['eval/rewards/chosen']:+.3f}  " if prefix else ""
    return f"margin {m[f'{prefix}rewards/margins']:+.3f}  {chosen}accuracy {accuracy}  "
