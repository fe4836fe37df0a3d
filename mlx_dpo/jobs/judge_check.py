"""judge --check: how far a person agrees with the verdicts on pairs drawn by chance."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from ..config import RunConfig
from ..errors import DpoError
from ..judges.agreement import Agreement, Asked, Texts, agreement, matched, read_vote
from ..judges.asking import Judged
from ..judges.prompts import conversation
from ..storage.jsonl import append_jsonl, read_jsonl
from ..storage.reading import is_there
from .judge import judged_so_far

Vote = Callable[[str, str, str], str | None]
"""Takes a prompt and the answers shown as 1 and 2; gives "1", "2", "tie", or None to end."""


def agreement_by_vote(config: RunConfig, count: int, vote: Vote) -> Agreement:
    """Let a person vote on `count` pairs; votes are kept in votes.jsonl, and the same call continues.

    The pairs are drawn by chance, always the same ones. A coin decides which answer is shown first.

    Raises:
        DpoError: nothing was judged yet, or there is no vote.
    """
    file = Path(config.judge.output) / "votes.jsonl"
    chosen = sorted(readable_pairs(judged_so_far(config)), key=lambda one: _digest("pair", one))[:count]
    votes = _read_votes(file) if is_there(file) else {}
    for one in chosen:
        if one.texts in votes:
            continue
        answers = [one.comparison.first, one.comparison.second]
        if _digest("coin", one)[0] % 2:
            answers.reverse()
        if (said := vote(one.prompt, *answers)) is None:
            break
        row = {"prompt": one.prompt, "answers": answers, "vote": said}
        append_jsonl(file, [row])
        votes |= [read_vote(row, "")]
    return _agreement(chosen, votes, file)


def agreement_with_file(config: RunConfig, file: Path | str) -> Agreement:
    """How far the votes in a file agree with the verdicts on the same texts.

    Raises:
        DpoError: nothing was judged yet, a line is not a vote, or no vote is on a judged pair.
    """
    return _agreement(readable_pairs(judged_so_far(config)), _read_votes(file), file)


def readable_pairs(judged: Sequence[Judged]) -> list[Asked]:
    """Every pair of answers with a readable verdict, once."""
    found = {}
    for one in judged:
        for comparison in one.comparisons:
            if comparison.outcome:
                asked = Asked(conversation(one.row.prompt), comparison)
                found[asked.texts] = asked
    return list(found.values())


def _read_votes(file: Path | str) -> dict[Texts, str | None]:
    return dict(read_vote(row, where) for where, row in read_jsonl(file))


def _agreement(asked: Sequence[Asked], votes: dict[Texts, str | None], file: Path | str) -> Agreement:
    pairs = matched(asked, votes)
    if not pairs:
        raise DpoError(
            "has no vote on a pair that was judged",
            where=file,
            hint="a vote names the prompt and both answers exactly as they are in verdicts.jsonl",
        )
    return agreement(pairs)


def _digest(what: str, one: Asked) -> bytes:
    prompt, answers = one.texts
    return hashlib.sha256("\0".join([what, prompt, *sorted(answers)]).encode()).digest()
