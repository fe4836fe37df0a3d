"""Pairs from what the judge decided."""

from collections.abc import Sequence, Set
from typing import Any

from ..data.splits import prompt_key, valid_prompts
from .asking import Judged


def judged_pairs(
    judged: Sequence[Judged],
    meta: dict[str, Any],
    fraction: float,
    seed: int,
    trained: Set[str] = frozenset(),
) -> dict[str, list[dict[str, Any]]]:
    """Rows of train and valid, best answer against worst, in the order of the source; no prompt is in both.

    Args:
        meta: written into every row.
        trained: see `data.splits.valid_prompts`.
    """
    decided = [one for one in judged if one.decided]
    held = valid_prompts([one.row.prompt for one in decided], fraction, seed, trained)
    files: dict[str, list[dict[str, Any]]] = {"train": [], "valid": []}
    for one in decided:
        name = "valid" if prompt_key(one.row.prompt) in held else "train"
        files[name].append(_pair(one, meta))
    return files


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
