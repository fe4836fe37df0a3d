"""What came of judging: counts, rates that show a biased judge, and warnings."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

from ..console import plural
from ..errors import first_ten
from ..metrics import wilson_interval
from .asking import Judged
from .estimate import money
from .kept_replies import Calls
from .verdicts import TIE, Share, consistency, first_position, longer_wins

_ENOUGH = 10
_POSITION, _LENGTH = 0.65, 0.75
"""Rates from which a judge is called biased. People prefer the longer answer in about 0.62 of the cases."""


@dataclass(frozen=True)
class JudgeSummary:
    """Rows by what came of them, comparisons by outcome, rates of the judge, requests of this call.

    `tied`, `unreadable`, `alike`, `failed`, `unfinished`: rows without a pair, since no verdict separates
    their answers, replies could not be read, there are fewer than two distinct answers, the judge gave no
    reply (place and reason of each), or `max_calls` was reached. `dropped`: how many pairs were left out, by
    reason, see `pairs.filters`. `distinct`: distinct answers of all answers. `unreadable_reasons`: how many
    readings were unreadable for each reason. `price`: what this call cost, None if no price is set or the
    server did not count all tokens; `estimated_price`: what was expected at its start.
    """

    rows: int
    train: int
    valid: int
    dropped: dict[str, int]
    tied: int
    unreadable: int
    alike: int
    failed: tuple[str, ...]
    unfinished: int
    distinct: Share
    comparisons: int
    tied_comparisons: int
    unreadable_comparisons: int
    consistency: Share
    first_position: Share
    longer_wins: Share
    calls: Calls
    models: tuple[str, ...] = ()
    unreadable_reasons: dict[str, int] = field(default_factory=dict)
    price: float | None = None
    estimated_price: float | None = None

    @property
    def warnings(self) -> list[str]:
        """What makes the verdicts doubtful."""
        told = []
        for position, low in (("first", False), ("second", True)):
            if _often(self.first_position, _POSITION, below=low):
                told.append(
                    f"the judge mostly prefers the answer shown {position}, whichever it is: its verdicts "
                    "say little about the answers; choose another judge"
                )
        if _often(self.longer_wins, _LENGTH):
            told.append(
                "the judge mostly prefers the longer answer: training on these pairs makes answers longer; "
                "look at the pairs, or choose another judge or rubric"
            )
        if self.unreadable_comparisons > self.comparisons / 10:
            told.append("more than a tenth of the comparisons are unreadable: choose another judge or method")
        if len(self.models) > 1:
            told.append(f"replies came from several models: {', '.join(self.models)}")
        return told

    def as_json(self) -> dict[str, Any]:
        """Plain values, with a rate and its n for each share."""
        plain = asdict(self)
        for name in ("distinct", "consistency", "first_position", "longer_wins"):
            one = getattr(self, name)
            plain[name] = {"rate": one.rate, "n": one.n}
        return {**plain, "warnings": self.warnings}

    def __str__(self) -> str:
        none = [
            *((self.tied, "tied"), (self.unreadable, "unreadable"), (self.alike, "with one distinct answer")),
            *((len(self.failed), "failed"), (self.unfinished, "not judged yet")),
            *((count, reason) for reason, count in self.dropped.items()),
        ]
        without = ", ".join(f"{count:,} {what}" for count, what in none if count) or "none"
        decided = self.comparisons - self.tied_comparisons - self.unreadable_comparisons
        written = self.calls.prompt_tokens, self.calls.completion_tokens
        lines = [
            f"{plural(self.rows, 'prompt')}: {plural(self.train, 'train pair')}, "
            f"{plural(self.valid, 'valid pair')}; without a pair: {without}",
            f"{'distinct answers':32}{_told(self.distinct)}",
            f"{'comparisons':32}{self.comparisons:,}: {decided:,} decided, "
            f"{plural(self.tied_comparisons, 'tie')}, {self.unreadable_comparisons:,} unreadable",
            f"{'same verdict in both orders':32}{_told(self.consistency)}",
            f"{'answer shown first preferred':32}{_told(self.first_position)}",
            f"{'longer answer preferred':32}{_told(self.longer_wins)}",
            f"{'requests of this call':32}{self.calls.sent:,} "
            f"({written[0]:,} prompt tokens, {written[1]:,} tokens written)",
        ]
        if self.estimated_price is not None:
            cost = "unknown: the server did not count all tokens" if self.price is None else money(self.price)
            lines += [f"{'price':32}{cost} (estimated at the start: {money(self.estimated_price)})"]
        if self.unreadable_reasons:
            reasons = [f"{reason} ({count:,})" for reason, count in self.unreadable_reasons.items()]
            lines += [f"unreadable, since {first_ten(reasons)}"]
        lines += [f"failed: {first_ten(list(self.failed))}"] if self.failed else []
        return "\n".join([*lines, *(f"warning: {text}" for text in self.warnings)])


def _often(share: Share, rate: float, *, below: bool = False) -> bool:
    if share.n < _ENOUGH:
        return False
    count = share.n - share.count if below else share.count
    return count / share.n >= rate and wilson_interval(count, share.n)[0] > 0.5


def _told(share: Share) -> str:
    if not share.n:
        return "- (n = 0)"
    low, high = wilson_interval(*share)
    return f"{share.rate:.3f}  (95 % interval {low:.3f}-{high:.3f}, n = {share.n:,})"


def summarise(
    judged: Sequence[Judged],
    files: Mapping[str, Sequence[Any]],
    calls: Calls,
    models: Iterable[str] = (),
    dropped: Mapping[str, int] = MappingProxyType({}),
    price: float | None = None,
    estimated_price: float | None = None,
) -> JudgeSummary:
    """The summary of judged rows, of the pairs made from them, and of this call's requests."""
    comparisons = [c for one in judged for c in one.comparisons]
    readings = [reading for c in comparisons for reading in (c.forward, c.swapped)]
    reasons = Counter(reading.reason for reading in readings if reading.verdict is None)
    undecided = [
        one for one in judged if one.comparisons and not (one.decided or one.failed or one.unfinished)
    ]
    unreadable = sum(any(c.outcome is None for c in one.comparisons) for one in undecided)
    return JudgeSummary(
        rows=len(judged),
        train=len(files["train"]),
        valid=len(files["valid"]),
        dropped=dict(dropped),
        tied=len(undecided) - unreadable,
        unreadable=unreadable,
        alike=sum(len(one.row.answers) < 2 for one in judged),
        failed=tuple(f"{one.row.where}: {one.failed}" for one in judged if one.failed),
        unfinished=sum(one.unfinished for one in judged),
        distinct=Share(sum(len(one.row.answers) for one in judged), sum(one.row.given for one in judged)),
        comparisons=len(comparisons),
        tied_comparisons=sum(c.outcome == TIE for c in comparisons),
        unreadable_comparisons=sum(c.outcome is None for c in comparisons),
        consistency=consistency(comparisons),
        first_position=first_position(comparisons),
        longer_wins=longer_wins(comparisons),
        calls=calls,
        models=tuple(sorted(set(models))),
        unreadable_reasons=dict(reasons.most_common()),
        price=price,
        estimated_price=estimated_price,
    )
