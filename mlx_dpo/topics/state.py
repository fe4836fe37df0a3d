"""The state of a topic model's run between two updates: all that it needs to continue, bit for bit."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..console import plural


@dataclass(frozen=True)
class TopicState:
    """Updates done, and what the weights and the optimiser do not hold.

    `sums`: each term of the loss, summed over the documents of the epoch so far. `documents`: their number.
    `best`: the lowest loss of an epoch, and `since` the epochs after it. `guided`: digest of the preferences
    in use, or "". `stopped`: why the run ended before its last epoch, or "".
    """

    step: int = 0
    sums: Mapping[str, float] = field(default_factory=dict)
    documents: int = 0
    best: float | None = None
    since: int = 0
    guided: str = ""
    stopped: str = ""

    def after_update(self, terms: Mapping[str, float], documents: int) -> "TopicState":
        """The state after one more update with these terms of its loss."""
        sums = {name: self.sums.get(name, 0.0) + documents * value for name, value in terms.items()}
        return replace(self, step=self.step + 1, sums=sums, documents=self.documents + documents)

    def means(self) -> dict[str, float]:
        """The loss of the epoch so far and its terms, means over documents."""
        terms = {f"loss/{name}": value / self.documents for name, value in self.sums.items()}
        return {"loss": sum(terms.values()), **terms}

    def after_epoch(self, patience: int | None) -> "TopicState":
        """The state at the start of the next epoch.

        Args:
            patience: epochs in a row without a lower loss after which the run ends; None: it goes on.
        """
        loss = self.means()["loss"]
        lower = self.best is None or loss < self.best
        since = 0 if lower else self.since + 1
        ended = (
            f"no lower training loss in {plural(since, 'epoch')}" if patience and since >= patience else ""
        )
        return replace(
            self, sums={}, documents=0, best=loss if lower else self.best, since=since, stopped=ended
        )

    def guided_by(self, digest: str) -> "TopicState":
        """The state when preferences begin to count; the lowest loss so far had fewer terms: forgotten."""
        return self if self.guided else replace(self, guided=digest, best=None, since=0)

    def facts(self) -> dict[str, Any]:
        """Plain values for a checkpoint; `TopicState(**facts)` is the state again."""
        return asdict(self)
