"""Checks a run's rows for alarms as they come; each alarm is reported once."""

from collections.abc import Callable

from .alarms import About, Alarm, Row, alarms
from .run_log import ALARM, RunLog

_REPORTS = 64
"""Number of earlier reports that alarms use at most."""


class Watch:
    """Writes the rows of a run, hands them on, and checks for alarms; earlier rows of the run count too.

    The first `forgotten` evaluations do not count.
    """

    def __init__(
        self, log: RunLog, about: About, guard: str, also: Callable[[Row], None], forgotten: int = 0
    ):
        self._log, self._about, self._guard, self._also = log, about, guard, also
        rows = log.rows()
        self._reports = [row for row in rows if "loss" in row][-_REPORTS:]
        self._evaluations = [row for row in rows if "eval/loss" in row][forgotten:]
        self._told = {event["name"] for event in log.events() if event["event"] == ALARM}

    def report(self, row: Row) -> None:
        """Take a row about training."""
        self._log.row(row)
        self._also(row)
        self._reports = [*self._reports, row][-_REPORTS:]
        self._look()

    def evaluation(self, row: Row) -> str:
        """Take a row about held-out pairs; give what is damaging the policy, or ""."""
        self._log.row(row)
        self._also(row)
        self._evaluations.append(row)
        return "; ".join(alarm.seen for alarm in self._look() if alarm.ruin)

    def _look(self) -> list[Alarm]:
        if self._guard == "off":
            return []
        found = alarms(self._reports, self._evaluations, self._about)
        for alarm in found:
            if alarm.name not in self._told:
                self._told.add(alarm.name)
                step = (self._reports or self._evaluations)[-1]["step"]
                self._log.alarm(int(step), alarm)
        return found
