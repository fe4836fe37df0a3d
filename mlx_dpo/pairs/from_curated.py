"""Curated rows to preference pairs: the rejected answer is the base model's."""

from collections.abc import Hashable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..console import plural
from ..data.similarity import alike, normalised
from ..data.sources import read_pairs
from ..data.splits import prompt_key, valid_prompts
from ..errors import DpoError
from ..records import Curated
from ..storage.jsonl import write_jsonl
from .completions import SampleCounts, plain_prompt, request_key
from .config import PairsConfig
from .filters import NEAR_IDENTICAL, REMEDIES, clusters_of, drop_reasons
from .sampled_answers import Said


@dataclass(frozen=True)
class PairCounts:
    """How many curated rows became pairs, and why others did not.

    `cut_off`: pairs whose rejected answer was cut off by max_tokens; `tokens`: tokens that this call sampled.
    `answers`: the counts of the sampled answers, if there are several a prompt.
    """

    rows: int
    train: int
    valid: int
    dropped: dict[str, int]
    cut_off: int = 0
    tokens: int = 0
    answers: SampleCounts | None = None

    def __str__(self) -> str:
        text = f"{plural(self.rows, 'row')}: {self.train:,} train and {plural(self.valid, 'valid pair')}"
        if self.cut_off:
            text += f", {self.cut_off:,} of them with an answer cut off by max_tokens"
        lost = ", ".join(f"{n:,} {reason}" for reason, n in self.dropped.items())
        text += f"; dropped {lost}" if lost else "; none dropped"
        return f"{text}; {plural(self.tokens, 'token')} sampled"


REPEATED = "repeated rows"
DROPPED = {
    REPEATED: "an earlier row has the same prompt and answer, and a repeated pair would count twice; "
    "remove the later rows",
    "empty": "the answer is empty; set another generate.seed and pairs.output, or remove these rows",
    "cut off by max_tokens": "raise generate.max_tokens to continue them, or set pairs.keep_capped=true",
    "equal to the start of the chosen answer": "raise generate.max_tokens, so that the answers can differ",
    "identical": "the model already gives this answer; remove these rows, or sample other answers with a "
    "higher generate.temperature and another pairs.output",
    "changed by the chat template": "training would use another text than the answer, for example after a "
    "stray </think>; raise generate.max_tokens, or set another generate.seed, to sample other answers",
    **REMEDIES,
}
"""Reasons for which a pair is not used, each with the remedy."""


def split_rows(
    rows: Sequence[Curated],
    valid_rows: Sequence[Curated] | None,
    fraction: float,
    seed: int,
    trained: Set[str] = frozenset(),
    cluster: Mapping[str, Hashable] = MappingProxyType({}),
) -> list[tuple[str, Curated]]:
    """Name each row's file, train or valid, so that no prompt, and no cluster of prompts, is in both.

    With `valid_rows`, a prompt that is in both sources belongs to valid only.

    Args:
        trained, cluster: see `data.splits.valid_prompts`.
    """
    if valid_rows is None:
        held = valid_prompts([row.prompt for row in rows], fraction, seed, trained, cluster)
        return [("valid" if prompt_key(row.prompt) in held else "train", row) for row in rows]

    def group(row: Curated) -> Hashable:
        key = prompt_key(row.prompt)
        return cluster.get(key, key)

    held_groups = {group(row) for row in valid_rows}
    return [("train", row) for row in rows if group(row) not in held_groups] + [
        ("valid", row) for row in valid_rows
    ]


def make_pairs(
    rows: Sequence[Curated],
    valid_rows: Sequence[Curated] | None,
    answers: Mapping[str, Sequence[Said]],
    config: PairsConfig,
    origin: dict[str, Any],
    seed: int,
    trained: Set[str] = frozenset(),
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, list[str]]]:
    """Drop the rows that cannot be used, then split the others.

    Args:
        answers: the sampled answers by request key. The rejected one is the first that can be used; with
            `length_matched`, the one whose length is closest to the chosen answer's.
        trained: keys of prompts that an earlier call wrote to train.jsonl, see `trained_prompts`.

    Returns:
        Rows of train and valid in the order of the source; and the places of the unused rows by reason.
    """
    files: dict[str, list[dict[str, Any]]] = {"train": [], "valid": []}
    dropped: dict[str, list[str]] = {}
    rejected: dict[tuple[str, str], Said] = {}

    def kept(row: Curated) -> bool:
        own = request_key(row), row.answer
        reason: str | None = REPEATED
        if own not in rejected:
            rejected[own], reason = _rejected(row.answer, answers[own[0]], config)
        if reason:
            dropped.setdefault(reason, []).append(row.where)
        return not reason

    def selected(some: Sequence[Curated]) -> list[Curated]:
        usable = [row for row in some if kept(row)]
        pairs = [(row.prompt, row.answer, rejected[request_key(row), row.answer].text) for row in usable]
        for row, reason in zip(usable, reasons := drop_reasons(pairs, config), strict=True):
            if reason:
                dropped.setdefault(reason, []).append(row.where)
        return [row for row, reason in zip(usable, reasons, strict=True) if not reason]

    used = selected(rows)
    held = None if valid_rows is None else selected(valid_rows)
    cluster = clusters_of([row.prompt for row in [*used, *(held or ())]], config)
    for name, row in split_rows(used, held, config.valid_fraction, seed, trained, cluster):
        answer = rejected[request_key(row), row.answer]
        files[name].append(
            {
                "id": row.id,
                "prompt": plain_prompt(row),
                **({"tools": list(row.tools)} if row.tools else {}),
                "chosen": [row.turn] if row.turn else row.answer,
                **({"chosen_cut": True} if row.cut else {}),
                "rejected": answer.text,
                **({"rejected_cut": True} if answer.cut else {}),
                "meta": origin,
            }
        )
    return files, dropped


def _rejected(chosen: str, every: Sequence[Said], config: PairsConfig) -> tuple[Said, str | None]:
    """The answer that is rejected, and why the pair is not used, see `drop_reason`."""
    reasons = [drop_reason(chosen, said, config) for said in every]
    usable = [said for said, reason in zip(every, reasons, strict=True) if not reason]
    if not usable:
        return every[0], reasons[0]
    if config.length_matched:
        return min(usable, key=lambda said: abs(len(said.text) - len(chosen))), None
    return usable[0], None


def trained_prompts(output: Path) -> set[str]:
    """Keys of the prompts in the train.jsonl of an earlier call; none if it is missing or unreadable."""
    try:
        return {prompt_key(pair.prompt) for pair in read_pairs(output / "train.jsonl")}
    except DpoError:
        return set()


def drop_reason(chosen: str, rejected: Said, config: PairsConfig) -> str | None:
    """Why a pair is not used, a key of DROPPED; None keeps it.

    An answer that was cut off is compared with a start of the same length of the chosen answer.
    """
    if not rejected.text.strip():
        return "empty"
    if rejected.refused:
        return "changed by the chat template"
    if rejected.cut and not config.keep_capped:
        return "cut off by max_tokens"
    chosen, said = normalised(chosen), normalised(rejected.text)
    if rejected.cut:
        chosen = chosen[: len(said)]
    if chosen == said:
        return "equal to the start of the chosen answer" if rejected.cut else "identical"
    if alike(chosen, said, config.max_similarity):
        return NEAR_IDENTICAL
    return None


def count_pairs(
    files: dict[str, list[dict[str, Any]]],
    dropped: dict[str, list[str]],
    tokens: int,
    answers: SampleCounts | None = None,
) -> PairCounts:
    """The counts of the pairs that `make_pairs` made; `tokens` were sampled for them."""
    lost = {reason: len(places) for reason, places in dropped.items()}
    kept = {name: len(rows) for name, rows in files.items()}
    cut_off = sum("rejected_cut" in row for rows in files.values() for row in rows)
    return PairCounts(
        rows=sum(kept.values()) + sum(lost.values()),
        **kept,
        dropped=lost,
        cut_off=cut_off,
        tokens=tokens,
        answers=answers,
    )


def write_pairs(files: dict[str, list[dict[str, Any]]], counts: PairCounts, output: Path) -> None:
    """Write train.jsonl and valid.jsonl, each completely.

    Raises:
        DpoError: no training pair is left.
    """
    if not files["train"]:
        most = max(counts.dropped, key=counts.dropped.__getitem__, default=None)
        raise DpoError(
            f"no pair is left to train on ({counts})",
            where=output,
            hint=f"{most}: {DROPPED[most]}" if most else "lower pairs.valid_fraction, or add curated rows",
        )
    for name, rows in files.items():
        write_jsonl(output / f"{name}.jsonl", rows)
