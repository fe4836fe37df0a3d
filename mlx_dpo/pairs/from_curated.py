"""Curated rows to preference pairs: the rejected answer is the base model's."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..console import plural
from ..data.similarity import alike, normalised
from ..data.sources import read_pairs
from ..data.splits import prompt_key, valid_prompts
from ..errors import DpoError
from ..records import Curated
from ..settings import Section, setting
from ..storage.jsonl import write_jsonl
from .completions import plain_prompt, request_key
from .sampled_answers import Said


@dataclass(frozen=True)
class PairsConfig(Section):
    """How curated answers become pairs."""

    source: str | list[str] = setting(
        "data/curated.jsonl",
        "curated rows, whose answers become the chosen ones, or prompts without answers: named in the same "
        "way as data.train",
        path="read",
        also="curated source_file prompts_file",
    )
    valid_source: str | list[str] | None = setting(
        None,
        "curated rows for the held-out pairs; null: a share of source (valid_fraction)",
        path="read",
    )
    output: str = setting(
        "data/pairs", "folder for completions.jsonl, train.jsonl and valid.jsonl", path="written"
    )
    samples: int = setting(
        1,
        "answers sampled for each prompt; with more than one, mlx-dpo judge can rank them",
        least=1,
        most=64,
        also="num_return_sequences num_generations best_of completions_per_prompt n",
    )
    limit: int | None = setting(
        None,
        "use only this many rows of each source, from the first; null: all",
        least=1,
        most=10**12,
        also="max_samples max_rows num_samples n_samples",
    )
    valid_fraction: float = setting(
        0.1,
        "share of the prompts that become held-out pairs",
        least=0,
        below=1,
        also="test_size val_size valid_size eval_size validation_split valid_split",
    )
    max_similarity: float = setting(
        0.95,
        "pairs whose two answers are more similar than this (0 to 1) are dropped",
        above=0,
        most=1,
    )
    keep_capped: bool = setting(
        True, "keep answers that were cut off at max_tokens; they are scored without an end token"
    )


@dataclass(frozen=True)
class PairCounts:
    """How many curated rows became pairs, and why others did not.

    `cut_off`: pairs whose rejected answer was cut off by max_tokens; `tokens`: tokens that this call sampled.
    """

    rows: int
    train: int
    valid: int
    dropped: dict[str, int]
    cut_off: int = 0
    tokens: int = 0

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
    "near-identical": "the two answers hardly differ; raise pairs.max_similarity to keep them, or "
    "remove these rows",
}
"""Reasons for which a pair is not used, each with the remedy."""


def split_rows(
    rows: Sequence[Curated],
    valid_rows: Sequence[Curated] | None,
    fraction: float,
    seed: int,
    trained: Set[str] = frozenset(),
) -> list[tuple[str, Curated]]:
    """Name each row's file, train or valid, so that no prompt is in both.

    With `valid_rows`, a prompt that is in both sources belongs to valid only.

    Args:
        trained: see `data.splits.valid_prompts`.
    """
    if valid_rows is None:
        held = valid_prompts([row.prompt for row in rows], fraction, seed, trained)
        return [("valid" if prompt_key(row.prompt) in held else "train", row) for row in rows]
    held = {prompt_key(row.prompt) for row in valid_rows}
    return [("train", row) for row in rows if prompt_key(row.prompt) not in held] + [
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
        answers: the sampled answers by request key; the first one that can be used is rejected.
        trained: keys of prompts that an earlier call wrote to train.jsonl, see `trained_prompts`.

    Returns:
        Rows of train and valid in the order of the source; and the places of the unused rows by reason.
    """
    files: dict[str, list[dict[str, Any]]] = {"train": [], "valid": []}
    dropped: dict[str, list[str]] = {}

    seen: set[tuple[str, str]] = set()

    def rejected(row: Curated) -> Said:
        every = answers[request_key(row)]
        return next((said for said in every if not drop_reason(row.answer, said, config)), every[0])

    def kept(row: Curated) -> bool:
        own = request_key(row), row.answer
        reason = REPEATED if own in seen else drop_reason(row.answer, rejected(row), config)
        seen.add(own)
        if reason:
            dropped.setdefault(reason, []).append(row.where)
        return not reason

    usable = [row for row in rows if kept(row)]
    held = None if valid_rows is None else [row for row in valid_rows if kept(row)]
    for name, row in split_rows(usable, held, config.valid_fraction, seed, trained):
        answer = rejected(row)
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
        return "near-identical"
    return None


def count_pairs(
    files: dict[str, list[dict[str, Any]]], dropped: dict[str, list[str]], tokens: int
) -> PairCounts:
    """The counts of the pairs that `make_pairs` made; `tokens` were sampled for them."""
    lost = {reason: len(places) for reason, places in dropped.items()}
    kept = {name: len(rows) for name, rows in files.items()}
    cut_off = sum("rejected_cut" in row for rows in files.values() for row in rows)
    return PairCounts(
        sum(kept.values()) + sum(lost.values()), **kept, dropped=lost, cut_off=cut_off, tokens=tokens
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
