"""The model's answers to prompts, in a file that only grows: every run continues from what is there."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from ..console import plural, progress, say
from ..data.render import template_hash
from ..data.templates import end_of_turn, pair_tokens
from ..data.tokenize import check_known, prompts_too_long
from ..errors import DpoError
from ..machine.interrupt import tell
from ..models.generate import GenerateConfig, generate_answers
from ..models.load import ModelConfig, fingerprint
from ..records import Answer as ChatAnswer
from ..records import Curated, answer_of
from ..storage.append_log import AppendLog

COMPLETIONS, SETTINGS = "completions.jsonl", "completions.json"


class Completion(NamedTuple):
    """The tokens of an answer so far, without the end of turn, and whether the answer has ended."""

    ids: list[int]
    ended: bool


class Said(NamedTuple):
    """An answer for a pair: its text, whether it was cut off, and whether training would refuse it."""

    text: str
    cut: bool
    refused: bool = False


class Sampled(NamedTuple):
    """What one call sampled: answers begun, answers continued, and new tokens."""

    begun: int = 0
    continued: int = 0
    tokens: int = 0


def request_key(row: Curated) -> str:
    """The key of a prompt's answer: 16 hex digits of its messages and tools.

    It does not depend on the tokens: some templates print the date, and yesterday's answers are kept.
    """
    asked = [row.prompt, row.tools] if row.tools else row.prompt
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


def tokenize_prompts(rows: Sequence[Curated], tokenizer: Any, max_length: int) -> dict[str, list[int]]:
    """Prompt tokens by request key: rows with the same prompt share one answer.

    Raises:
        DpoError: training would refuse the template or a row, or prompts leave no room for an answer (the
            first ten are named).
    """
    end = end_of_turn(tokenizer)
    requests, too_long = {}, []
    for row in rows:
        try:
            tokens, (wanted,) = pair_tokens(tokenizer, row.prompt, [row.wanted], end, row.tools, max_length)
        except DpoError as error:
            raise error.instead(where=row.where) from None
        check_known(tokenizer, [*tokens, *wanted], row.where)
        if len(tokens) + 2 > max_length:
            too_long.append((row.where, len(tokens)))
        requests[request_key(row)] = tokens
    if too_long:
        raise prompts_too_long(too_long, max_length)
    return requests


def answer_missing(
    model: Any,
    tokenizer: Any,
    wanted: Mapping[str, list[int]],
    log: AppendLog,
    config: GenerateConfig,
) -> tuple[dict[str, Completion], Sampled]:
    """Answer every wanted prompt with at most max_tokens; return all answers by request key.

    Prompts without an answer in `log` (see `completions_log`) are answered. An answer that a smaller
    max_tokens cut off continues from its last token. Each answer is added to the log as soon as it stops.

    Raises:
        DpoError: another process works in the same folder, the file has a foreign line, or the disk is full.
    """
    with log.open(_completion) as completions:
        done = completions.results
        missing = [key for key in wanted if _unfinished(done.get(key), config.max_tokens)]
        begun = [done[key].ids if key in done else [] for key in missing]
        continued = sum(key in done for key in missing)
        if len(missing) < len(wanted):
            answered = f"{len(wanted) - len(missing)} of {plural(len(wanted), 'prompt')}"
            say(f"{answered} already answered; continuing")
        if continued:
            cut = plural(continued, "answer that was cut off is", "answers that were cut off are")
            say(f"{cut} continued up to {plural(config.max_tokens, 'token')}")
        written, start = 0, time.monotonic()
        streams = [int(key, 16) for key in missing]
        prompts = [wanted[key] for key in missing]
        with progress("answering", len(wanted), "prompts", len(wanted) - len(missing)) as advance:
            answers = generate_answers(model, tokenizer, prompts, config, streams, begun)
            try:
                for answer in answers:
                    key = missing[answer.index]
                    row = {"text": answer.text, "ids": answer.ids, "ended": not answer.capped}
                    completions.append(key, row, Completion(answer.ids, not answer.capped))
                    written += answer.tokens - len(begun[answer.index])
                    advance(1, f"{written / (time.monotonic() - start):,.0f} tokens/s")
            except KeyboardInterrupt as stop:
                kept = plural(len(done), "answer")
                tell(stop, f"interrupted: kept {kept}; the same command continues from here")
                raise
    return done, Sampled(len(missing) - continued, continued, written)


def _unfinished(answer: Completion | None, max_tokens: int) -> bool:
    return answer is None or (not answer.ended and len(answer.ids) < max_tokens)


def _completion(row: dict[str, Any], where: str) -> tuple[str, Completion]:
    """One line of completions.jsonl; only its tokens are used, the text is for people."""
    key, ids, ended = (row.get(name) for name in ("key", "ids", "ended"))
    numbers = isinstance(ids, list) and all(type(token) is int for token in ids)
    if not (numbers and isinstance(key, str) and isinstance(ended, bool)):
        raise DpoError(
            "is not a line of this version of gen-pairs",
            where=where,
            hint="remove the line or the whole file: gen-pairs then answers the prompts again",
        )
    return key, Completion(ids, ended)


def answer_texts(
    rows: Sequence[Curated], answers: Mapping[str, Completion], tokenizer: Any, max_tokens: int
) -> dict[str, Said]:
    """The answers to these rows' prompts by request key, as if sampled with this max_tokens from the start.

    So an answer that was sampled with a larger max_tokens is cut off here.
    """
    end, said = end_of_turn(tokenizer), {}
    for key, row in {request_key(row): row for row in rows}.items():
        ids, ended = answers[key]
        if ended and len(ids) < max_tokens:  # the end token counts as a token
            text = tokenizer.decode(ids).strip()
            said[key] = Said(text, False, bool(text) and not _scored(tokenizer, row, answer_of(text), end))
        else:
            text = cut_text(tokenizer, row, ids[:max_tokens], end)
            answer = answer_of(text, cut=True)
            said[key] = Said(text, True, bool(text) and not _scored(tokenizer, row, answer, end))
    return said


_TAIL, _LEFT_OFF = 4, 32
"""Last tokens of a cut-off answer that must be the model's own (a character has at most four), and the most
tokens that are left off for this.
"""


def cut_text(tokenizer: Any, row: Curated, ids: Sequence[int], end: int) -> str:
    """The text of a cut-off answer whose end training turns into the same tokens that the model sampled.

    Last tokens are left off if their text would become other tokens: half of a character, or a line break
    (which is stripped) in one token with the sign before it.

    Args:
        ids: tokens that the model sampled, without an end token.
        end: the end-of-turn token, from `end_of_turn`.
    """
    for count in range(len(ids), max(0, len(ids) - _LEFT_OFF), -1):
        text = tokenizer.decode(ids[:count]).strip()
        scored = _scored(tokenizer, row, answer_of(text, cut=True), end) if text else []
        if text and scored[-_TAIL:] == list(ids[:count][-_TAIL:]):
            return text
    return tokenizer.decode(ids).strip().rstrip("\ufffd")


def _scored(tokenizer: Any, row: Curated, answer: ChatAnswer, end: int) -> list[int]:
    """The answer's tokens in training; none if training would refuse it."""
    try:
        return pair_tokens(tokenizer, row.prompt, [answer], end, row.tools)[1][0]
    except DpoError:
        return []


def completions_log(output: Path, origin: dict[str, Any]) -> AppendLog:
    """The log of all answers in a folder; it is continued only with the same model, template and settings.

    max_tokens may differ: an answer that a smaller one cut off is continued.
    """
    lasting = {name: value for name, value in origin["generate"].items() if name != "max_tokens"}
    # The same model may be in another folder now, and another model in the same folder.
    compared = {"fingerprint": "model", "template": "template"}
    return AppendLog(
        output / COMPLETIONS,
        {**origin, "generate": lasting},
        {**compared, **{f"generate.{name}": None for name in lasting}},
        writer="gen-pairs",
        holds="answers",
        setting="pairs.output",
        beside=("train.jsonl", "valid.jsonl"),
    )


def pairs_origin(model: ModelConfig, base: Path, tokenizer: Any, config: GenerateConfig) -> dict[str, Any]:
    """Everything besides the prompt that answers depend on; every pair has it in its meta.

    The fingerprint identifies the content of model and adapter; their names are for people.
    """
    folders = [base, Path(model.adapter)] if model.adapter else [base]
    return {
        "model": model.path,
        "adapter": model.adapter,
        "fingerprint": fingerprint(*folders),
        "template": template_hash(tokenizer),
        "generate": {k: v for k, v in asdict(config).items() if k != "batch_size"},
    }
