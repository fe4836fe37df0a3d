"""Pairs from what the judge decided."""

from collections.abc import Hashable, Mapping, Sequence, Set
from types import MappingProxyType
from typing import Any

from ..data.splits import prompt_key, valid_prompts
from .asking import Judged
from .verdicts import FIRST, SECOND, Comparison


def judged_pairs(
    judged: Sequence[Judged],
    meta: dict[str, Any],
    fraction: float,
    seed: int,
    trained: Set[str] = frozenset(),
    cluster: Mapping[str, Hashable] = MappingProxyType({}),
) -> dict[str, list[dict[str, Any]]]:
    """Rows of train and valid, best answer against worst, in the order of the source; no prompt is in both.

    Args:
        judged: rows that are decided.
        meta: written into every row.
        trained, cluster: see `data.splits.valid_prompts`.
    """
    held = valid_prompts([one.row.prompt for one in judged], fraction, seed, trained, cluster)
    files: dict[str, list[dict[str, Any]]] = {"train": [], "valid": []}
    for one in judged:
        name = "valid" if prompt_key(one.row.prompt) in held else "train"
        files[name].append(_pair(one, meta))
    return files


def with_close_length(judged: Judged) -> Judged:
    """The same with another rejected answer: of those that lost to the best, the one closest in length."""
    best, worst = judged.decided
    answers = judged.row.answers
    lost = {loser for winner, loser in map(_winner_and_loser, judged.comparisons) if winner == answers[best]}
    possible = [worst, *(n for n, answer in enumerate(answers) if answer in lost and n != worst)]
    return judged._replace(
        decided=(best, min(possible, key=lambda n: abs(len(answers[n]) - len(answers[best]))))
    )


def _winner_and_loser(comparison: Comparison) -> tuple[str | None, str | None]:
    both = comparison.first, comparison.second
    return {FIRST: both, SECOND: both[::-1]}.get(comparison.outcome, (None, None))


def _pair(judged: Judged, meta: dict[str, Any]) -> dict[str, Any]:
    row, (best, worst) = judged.row, judged.decided
    only_text = len(row.prompt) == 1 and row.prompt[0].keys() == {"role", "content"}
    pair: dict[str, Any] = {
        "id": row.id,
        "prompt": row.prompt[0]["content"] if only_text else list(row.prompt),
        **({"tools": list(row.tools)} if row.tools else {}),
    }
    for name, number in (("chosen", best), ("rejected", worst)):
        pair[name] = row.answers[number]
        if not row.ended[number]:
            pair[f"{name}_cut"] = True
    return {**pair, "meta": meta}
