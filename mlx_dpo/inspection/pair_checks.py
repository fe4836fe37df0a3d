"""Checks of a row as a whole: its two answers against each other and against the prompt."""

import re

from ..data.messages import earlier_reasoning
from ..data.similarity import alike, normalised
from .row_checks import BRANCHES, Row, named, row_check
from .words import words

FAR = 4.0
"""Times as long, in tokens, as the other answer: nothing but the length would be learnt."""
FEWEST_TOKENS = 32
"""Tokens by which the answers must differ for that."""

_FEWEST_WORDS = 4


@row_check(
    "near-identical",
    "the answers are so alike that there is next to nothing to prefer",
    "let the answers differ, or remove the row; gen-pairs drops such pairs (pairs.max_similarity)",
)
def near_identical(row: Row) -> str | None:
    """As alike as pairs.max_similarity, but not the same."""
    least = row.context.max_similarity
    if alike(row.text.chosen, row.text.rejected, least):
        return f"the answers are {least:.0%} alike or more"
    return None


@row_check(
    "one-continues-other",
    "one answer is the start of the other: only going on or stopping could be learnt",
    "remove the row, or let the shorter answer end in its own way",
)
def one_continues_other(row: Row) -> str | None:
    """The shorter answer is the start of the longer one, word by word."""
    short, long = sorted((row.text.chosen, row.text.rejected), key=len)
    if not long.startswith(short) or near_identical(row):
        return None
    return f"{'chosen' if long is row.text.chosen else 'rejected'} begins with all of the other answer"


@row_check(
    "far-longer", "the chosen answer is many times as long", "shorten it, or write a longer rejected one"
)
def far_longer(row: Row) -> str | None:
    """FAR times the tokens of the rejected one."""
    return _far(len(row.pair.chosen), len(row.pair.rejected))


@row_check(
    "far-shorter", "the chosen answer is many times as short", "lengthen it, or shorten the rejected one"
)
def far_shorter(row: Row) -> str | None:
    """FAR times fewer tokens than the rejected one."""
    return _far(len(row.pair.rejected), len(row.pair.chosen))


@row_check(
    "earlier-reasoning-left-out",
    "the chat template leaves out the reasoning of earlier turns, as it does when the model is asked",
    "nothing, if the model is asked with the same template; else remove the reasoning from earlier turns",
)
def earlier_reasoning_left_out(row: Row) -> str | None:
    """Reasoning of a turn of the prompt that is not in the rendered prompt."""
    reasoning = earlier_reasoning(row.text.prompt)
    if reasoning and reasoning not in row.context.tokenizer.decode(row.pair.prompt.tolist()):
        return f"not in the prompt: {reasoning[:60]!r}"
    return None


def _far(long: int, short: int) -> str | None:
    return f"{long:,} tokens against {short:,}" if long >= max(FAR * short, short + FEWEST_TOKENS) else None


@row_check(
    "cut",
    "the answer is cut at data.max_length, and how it ends is not learnt",
    "raise data.max_length, or shorten the answer",
)
def cut(row: Row) -> str | None:
    """The last token is not the end of the turn, in an answer that has one."""
    limit = f"does not end within {row.context.max_length:,} tokens"
    ending = [name for name in BRANCHES if not row.cut_off(name)]
    return named((name, limit if getattr(row.pair, name)[-1] != row.context.end else None) for name in ending)


@row_check(
    "special-token-in-answer",
    "a special token is spelt out: it becomes that token, or the model learns to spell it",
    "remove it from the text",
)
def special_token_in_answer(row: Row) -> str | None:
    """The text of a special token in an answer."""
    return named((name, _special(row, getattr(row.text, name))) for name in BRANCHES)


@row_check(
    "special-token-in-prompt",
    "a special token is spelt out: it becomes that token, or the model learns to spell it",
    "remove it from the text",
)
def special_token_in_prompt(row: Row) -> str | None:
    """The text of a special token in a turn of the prompt."""
    return named((turn["role"], _special(row, turn["content"])) for turn in row.text.prompt)


def _special(row: Row, text: str) -> str | None:
    match = row.context.special.search(text)
    return match and repr(match[0])


@row_check("prompt-echo", "the answer begins with the question", "remove the question from the answer")
def prompt_echo(row: Row) -> str | None:
    """All of the last user turn stands at the start of an answer."""
    question = normalised(row.text.prompt[-1]["content"])
    if len(words(question)) < _FEWEST_WORDS:
        return None
    said = {name: normalised(getattr(row.text, name)).startswith(question) for name in BRANCHES}
    return named((name, "begins with the question" if echo else None) for name, echo in said.items())


_BLANK = re.compile(
    r"\{\{?\s*(?:question|prompt|input|instruction|context|answer|response|query|document)\s*\}?\}"
)


@row_check(
    "unfilled-placeholder",
    "a prompt template was not filled in",
    "fill it in where the rows are made",
)
def unfilled_placeholder(row: Row) -> str | None:
    """{question}, {{ input }} and the like in the prompt."""
    blanks = ((turn["role"], _BLANK.search(turn["content"])) for turn in row.text.prompt)
    return named((role, blank and repr(blank[0])) for role, blank in blanks)
