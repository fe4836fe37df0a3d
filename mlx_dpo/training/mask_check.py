"""Checks that the scored tokens decode to the answer and one end of turn, after the shared prompt."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..data.answer_after_prompt import continuation
from ..data.batches import build_batch
from ..data.chat_template import render
from ..data.conversation_tokens import end_of_turn
from ..data.tokenize import TokenizedPair
from ..errors import REPORT, DpoError
from ..records import Preference
from .checked_rows import spread_rows


def check_masks(
    rows: Sequence[Preference], pairs: Sequence[TokenizedPair], tokenizer: Any, max_length: int
) -> None:
    """Invariants 2 and 3: scored tokens decode to the answer and one end-of-turn, after the shared prompt.

    An answer that is marked as cut off has no end-of-turn; an answer that reaches max_length may have none.

    Args:
        rows: the row of text from which each pair was made.

    Raises:
        DpoError: naming the row.
    """
    end = end_of_turn(tokenizer)
    for number in spread_rows(pairs, 8):
        pair, row = pairs[number], rows[number]
        batch = build_batch([pair])
        prompt = np.array(batch.inputs)[:, : len(pair.prompt)]
        if not (prompt == pair.prompt).all():
            raise DpoError(
                "the two answers do not have the same prompt tokens", where=pair.where, hint=REPORT
            )
        text = render(tokenizer, row.prompt, generation_prompt=True, tools=row.tools)
        if _decode(tokenizer, pair.prompt) != _decode(
            tokenizer, tokenizer.encode(text, add_special_tokens=not tokenizer.has_chat_template)
        ):
            raise DpoError("the prompt's tokens are not the rendered prompt", where=pair.where, hint=REPORT)
        targets, mask = np.array(batch.targets), np.array(batch.mask)
        for branch, answer in enumerate(row.answers):
            said = continuation(tokenizer, row.prompt, text, answer, row.tools).said
            scored = targets[branch][mask[branch]].tolist()
            full = len(pair.prompt) + len(scored) == max_length
            _check_completion(tokenizer, scored, said, end, pair.where, cut=answer.cut, full=full)


def _check_completion(
    tokenizer: Any, scored: list[int], said: str, end: int, where: str, *, cut: bool, full: bool
) -> None:
    """Check one answer's scored tokens; an answer that is `full` (reaches max_length) may stop anywhere."""
    ends = [t for t in scored if t in tokenizer.eos_token_ids]
    ended = scored[-1:] == [end]
    text = _decode(tokenizer, scored[:-1] if ended else scored).strip()
    expected = _decode(tokenizer, tokenizer.encode(said, add_special_tokens=False)).strip()
    same = text == expected and ended != cut
    if full and not ended:
        same = expected.startswith(text.rstrip("\ufffd"))  # half a character decodes to this sign
    if len(ends) != ended or not same:
        what = "the cut-off answer without an end-of-turn" if cut else "the answer and one end-of-turn"
        raise DpoError(
            f"the scored tokens are not {what}: {_decode(tokenizer, scored)[-60:]!r}",
            where=where,
            hint="the chat template adds or changes text around answers; " + REPORT,
        )


def _decode(tokenizer: Any, tokens: Any) -> str:
    return tokenizer.decode([int(t) for t in tokens], skip_special_tokens=False)
