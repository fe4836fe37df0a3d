"""Answers of a model in this process: prompts to tokens, answers to text, and which answers are cut off."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from ..data.chat_template import template_hash
from ..data.conversation_tokens import end_of_turn, pair_tokens
from ..data.tokenize import check_known, prompts_too_long
from ..errors import DpoError
from ..models.generate import GenerateConfig, generate_answers
from ..models.load import ModelConfig, fingerprint
from ..records import Answer as ChatAnswer
from ..records import Curated, answer_of
from .completions import Answers, Completion, Keep, Missing, Row, Work, request_key, stream_of


class Said(NamedTuple):
    """An answer for a pair: its text, whether it was cut off, and whether training would refuse it."""

    text: str
    cut: bool
    refused: bool = False


def tokenize_prompts(rows: Sequence[Row], tokenizer: Any, max_length: int) -> dict[str, list[int]]:
    """Prompt tokens by request key: rows with the same prompt share their answers.

    Raises:
        DpoError: training would refuse the template or a row, or prompts leave no room for an answer (the
            first ten are named).
    """
    end = end_of_turn(tokenizer)
    requests, too_long = {}, []
    for row in rows:
        try:
            wanted = [row.wanted] if isinstance(row, Curated) else []
            tokens, answers = pair_tokens(tokenizer, row.prompt, wanted, end, row.tools, max_length)
        except DpoError as error:
            raise error.instead(where=row.where) from None
        check_known(tokenizer, [*tokens, *(t for answer in answers for t in answer)], row.where)
        if len(tokens) + 2 > max_length:
            too_long.append((row.where, len(tokens)))
        requests[request_key(row)] = tokens
    if too_long:
        raise prompts_too_long(too_long, max_length)
    return requests


def sample_missing(
    model: Any,
    tokenizer: Any,
    asked: Mapping[str, Row],
    prompts: Mapping[str, Sequence[int]],
    config: GenerateConfig,
    missing: Sequence[Missing],
    keep: Keep,
) -> Work:
    """Sample the missing answers with the model; an answer that was cut off continues from its last token.

    Args:
        prompts: the tokens of each prompt by request key.
    """
    end, processed = end_of_turn(tokenizer), []
    begun = [one.begun.ids if one.begun else [] for one in missing]
    answers = generate_answers(
        model,
        tokenizer,
        [prompts[one.key] for one in missing],
        config,
        [stream_of(one.key, one.sample) for one in missing],
        begun,
        processed=processed.append,
    )
    for answer in answers:
        one = missing[answer.index]
        text = cut_text(tokenizer, asked[one.key], answer.ids, end) if answer.capped else answer.text
        keep(one, Completion(text, not answer.capped, answer.ids), answer.tokens - len(begun[answer.index]))
    return Work(sum(processed))


def answer_texts(
    rows: Sequence[Row],
    answers: Mapping[str, Answers],
    tokenizer: Any,
    samples: int,
    max_tokens: int,
) -> dict[str, list[Said]]:
    """The first `samples` answers to these rows' prompts by request key, as if sampled with this max_tokens.

    So an answer that was sampled with a larger max_tokens is cut off here.
    """
    end = end_of_turn(tokenizer)
    return {
        key: [
            _said(tokenizer, row, answers[key][number].ids, answers[key][number].ended, end, max_tokens)
            for number in range(samples)
        ]
        for key, row in {request_key(row): row for row in rows}.items()
    }


def _said(tokenizer: Any, row: Row, ids: Sequence[int], ended: bool, end: int, max_tokens: int) -> Said:
    cut = not ended or len(ids) >= max_tokens  # the end token counts as a token
    text = cut_text(tokenizer, row, ids[:max_tokens], end) if cut else tokenizer.decode(ids).strip()
    return Said(text, cut, bool(text) and not _scored(tokenizer, row, answer_of(text, cut=cut), end))


_TAIL, _LEFT_OFF = 4, 32
"""Last tokens of a cut-off answer that must be the model's own (a character has at most four), and the most
tokens that are left off for this.
"""


def cut_text(tokenizer: Any, row: Row, ids: Sequence[int], end: int) -> str:
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


def _scored(tokenizer: Any, row: Row, answer: ChatAnswer, end: int) -> list[int]:
    """The answer's tokens in training; none if training would refuse it."""
    try:
        return pair_tokens(tokenizer, row.prompt, [answer], end, row.tools)[1][0]
    except DpoError:
        return []


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
