"""A user's function that is called with a run's metrics."""

from collections.abc import Callable

import numpy as np

from .alarms import Row

Callback = Callable[[int, dict[str, float]], bool | None]
"""Takes a step and its row of metrics.jsonl; False ends the run."""


class Listener:
    """Hands every row to the trackers and to a callback; `ended` says why the run should end, or is ""."""

    def __init__(self, callback: Callback | None, trackers: Callable[[Row], None]):
        self._callback, self._trackers, self.ended = callback, trackers, ""

    def row(self, row: Row) -> None:
        """Hand on a row; errors of the callback are passed on."""
        self._trackers(row)
        answer = self._callback(int(row["step"]), dict(row)) if self._callback else None
        if isinstance(answer, (bool, np.bool_)) and not answer:
            self.ended = "the callback returned False"
