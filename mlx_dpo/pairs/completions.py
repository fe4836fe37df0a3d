"""completions.jsonl: the answers to every prompt, in a file to which each run adds what is missing."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from ..console import plural, progress, say
from ..errors import DpoError
from ..machine.interrupt import tell
from ..records import Curated, Message, Prompt
from ..storage.append_log import AppendLog
from ..storage.jsonl import ROW_BYTES

COMPLETIONS, SETTINGS = "completions.jsonl", "completions.json"
LONGEST_ROW = 64 * ROW_BYTES
"""Most bytes of a line of completions.jsonl: the answers to one prompt, of which there may be 64."""

Row = Curated | Prompt


class Completion(NamedTuple):
    """An answer so far: its text, whether it has ended, and its tokens without the end of turn.

    A server does not tell the tokens: then `ids` is None, and `limit` is the max_tokens of the request.
    """

    text: str
    ended: bool
    ids: list[int] | None = None
    limit: int = 0

    def is_whole(self, max_tokens: int) -> bool:
        """Whether nothing would be added to it with this max_tokens."""
        return self.ended or (self.limit if self.ids is None else len(self.ids)) >= max_tokens


Answers = dict[int, Completion]
"""The answers to one prompt by the number of the sample, from 0."""


class Missing(NamedTuple):
    """An answer to sample: request key, number of the sample, and what is there of it."""

    key: str
    sample: int
    begun: Completion | None


class Work(NamedTuple):
    """What sampling took: prompt tokens processed, and the answers that failed, each with the reason."""

    prompt_tokens: int
    failed: Sequence[tuple[Missing, str]] = ()


Keep = Callable[[Missing, Completion, int], None]
"""Keeps an answer; the number is that of its new tokens. It may be called from several threads."""


class Sampled(NamedTuple):
    """What one call sampled: answers begun, answers continued, new tokens, and see `Work`."""

    begun: int
    continued: int
    tokens: int
    work: Work


def request_key(row: Row) -> str:
    """The key of a prompt's answers: 16 hex digits of its messages and tools.

    It does not depend on the tokens: some templates print the date, and yesterday's answers are kept.
    """
    asked = [row.prompt, row.tools] if row.tools else row.prompt
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


def stream_of(key: str, sample: int) -> int:
    """The number, in 64 bits, of the stream of random numbers for one sample of one prompt."""
    if sample:
        key = hashlib.sha256(f"{key}/{sample}".encode()).hexdigest()[:16]
    return int(key, 16)


def answer_missing(
    asked: Mapping[str, Row],
    log: AppendLog,
    samples: int,
    max_tokens: int,
    sample: Callable[[list[Missing], Keep], Work],
) -> tuple[dict[str, Answers], Sampled]:
    """Sample the answers that `log` (see `completions_log`) lacks; return all answers by request key.

    An answer that a smaller max_tokens cut off is continued. Each answer is added to the log as soon as it
    stops; at the end the log has one row for each prompt.

    Args:
        asked: a row for each request key.
        sample: samples the missing answers.

    Raises:
        DpoError: another process works in the same folder, the file has a foreign line, or the disk is full.
    """
    with log.open(_answers_of) as completions:
        done: dict[str, Answers] = completions.results
        missing = [
            Missing(key, number, there)
            for key in asked
            for number in range(samples)
            if not (there := done.get(key, {}).get(number)) or not there.is_whole(max_tokens)
        ]
        total, continued = samples * len(asked), sum(one.begun is not None for one in missing)
        _say_what_is_there(total, len(missing), continued, samples, max_tokens)
        written, start, lock = 0, time.monotonic(), Lock()
        unit = "prompts" if samples == 1 else "answers"
        with progress("answering", total, unit, total - len(missing)) as advance:

            def keep(one: Missing, answer: Completion, tokens: int) -> None:
                nonlocal written
                with lock:
                    answers = {**done.get(one.key, {}), one.sample: answer}
                    completions.append(one.key, _row(asked[one.key], answers), answers)
                    written += tokens
                    advance(1, f"{written / (time.monotonic() - start):,.0f} tokens/s")

            try:
                work = sample(missing, keep)
            except KeyboardInterrupt as stop:
                kept = plural(sum(map(len, done.values())), "answer")
                tell(stop, f"interrupted: kept {kept}; the same command continues from here")
                raise
        completions.tidy()
    begun = len(missing) - continued - sum(one.begun is None for one, _ in work.failed)
    continued -= sum(one.begun is not None for one, _ in work.failed)
    return done, Sampled(begun, continued, written, work)


def _say_what_is_there(total: int, missing: int, continued: int, samples: int, max_tokens: int) -> None:
    if missing < total and samples == 1:
        say(f"{total - missing:,} of {plural(total, 'prompt')} already answered; continuing")
    elif missing < total:
        say(f"{total - missing:,} of {plural(total, 'answer')} are there already; continuing")
    if continued:
        cut = plural(continued, "answer that was cut off is", "answers that were cut off are")
        say(f"{cut} continued up to {plural(max_tokens, 'token')}")


def plain_prompt(row: Row) -> str | list[Message]:
    """The prompt as rows have it: the text of a single turn, else the messages."""
    return row.prompt[0]["content"] if len(row.prompt) == 1 else list(row.prompt)


def _row(row: Row, answers: Answers) -> dict[str, Any]:
    """One line of the file: the answers by number; the numbers are written if one is missing."""
    numbers = sorted(answers)
    every = [answers[number] for number in numbers]
    with_ids = all(answer.ids is not None for answer in every)
    return {
        "prompt": plain_prompt(row),
        **({"tools": list(row.tools)} if row.tools else {}),
        "completions": [answer.text for answer in every],
        "ended": [answer.ended for answer in every],
        **({"ids": [a.ids for a in every]} if with_ids else {"max_tokens": [a.limit for a in every]}),
        **({"samples": numbers} if numbers != [*range(len(numbers))] else {}),
    }


def _answers_of(row: dict[str, Any], where: str) -> tuple[str, Answers]:
    """One line of the file; an earlier version wrote one answer a line (text, ids, ended)."""
    if "text" in row:
        row = {
            "key": row.get("key"),
            **{
                new: [row.get(old)]
                for old, new in (("text", "completions"), ("ended", "ended"), ("ids", "ids"))
            },
        }
    key, texts, ended = (row.get(name) for name in ("key", "completions", "ended"))
    numbers = row.get("samples", [*range(len(texts))] if isinstance(texts, list) else None)
    marks = row.get("ids", row.get("max_tokens"))
    columns = (texts, ended, marks, numbers)
    if (
        isinstance(key, str)
        and all(isinstance(column, list) for column in columns)
        and len({len(column) for column in columns}) == 1
        and all(isinstance(text, str) for text in texts)
        and all(isinstance(one, bool) for one in ended)
        and all(map(_is_number, numbers))
        and all(map(_are_ids if "ids" in row else _is_number, marks))
    ):
        answers = (
            Completion(text, end, mark) if "ids" in row else Completion(text, end, None, mark)
            for text, end, mark in zip(texts, ended, marks, strict=True)
        )
        return key, dict(zip(numbers, answers, strict=True))
    raise DpoError(
        "is not a line of this version of gen-pairs",
        where=where,
        hint="remove the line or the whole file: gen-pairs then answers the prompts again",
    )


def _is_number(value: Any) -> bool:
    return type(value) is int


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_number, value))


def completions_log(output: Path, origin: dict[str, Any]) -> AppendLog:
    """The log of all answers in a folder; it is continued only with the same model, template and settings.

    max_tokens may differ: an answer that a smaller one cut off is continued.
    """
    lasting = {name: value for name, value in origin["generate"].items() if name != "max_tokens"}
    # The same model may be in another folder now, and another model in the same folder.
    compared = {"fingerprint": "model", "endpoint_model": "model", "template": "template"}
    return AppendLog(
        output / COMPLETIONS,
        {**origin, "generate": lasting},
        {**compared, **{f"generate.{name}": None for name in lasting}},
        writer="gen-pairs",
        holds="answers",
        setting="pairs.output",
        beside=("train.jsonl", "valid.jsonl"),
    )


@dataclass(frozen=True)
class SampleCounts:
    """The answers to the prompts, and what this call sampled.

    `distinct`: how many different answers a prompt has, on average. `equal`: prompts whose answers are all
    the same. `cut_off`: answers that max_tokens cut off. `tokens`, `prompt_tokens`: sampled and processed.
    """

    prompts: int
    samples: int
    distinct: float
    equal: int
    cut_off: int
    tokens: int = 0
    prompt_tokens: int = 0

    def __str__(self) -> str:
        text = f"{plural(self.prompts, 'prompt')}, {plural(self.samples, 'answer')} each"
        if self.samples > 1:
            equal = f"all equal for {plural(self.equal, 'prompt')}" if self.equal else "never all equal"
            text += f": {self.distinct:.1f} different ones on average, {equal}"
        if self.cut_off:
            text += f"; {plural(self.cut_off, 'answer')} cut off by max_tokens"
        sampled = f"{plural(self.tokens, 'token')} sampled"
        return f"{text}; {sampled}, {plural(self.prompt_tokens, 'prompt token')} processed"


def count_samples(
    done: Mapping[str, Answers], keys: Sequence[str], samples: int, sampled: Sampled
) -> SampleCounts:
    """The counts of the first `samples` answers to each of these prompts."""
    every = [[done[key][number] for number in range(samples)] for key in keys]
    different = [len({answer.text for answer in answers}) for answers in every]
    return SampleCounts(
        prompts=len(every),
        samples=samples,
        distinct=sum(different) / max(len(every), 1),
        equal=sum(count == 1 for count in different),
        cut_off=sum(not answer.ended for answers in every for answer in answers),
        tokens=sampled.tokens,
        prompt_tokens=sampled.work.prompt_tokens,
    )
