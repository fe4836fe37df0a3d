"""Checks of a whole row: its two answers compared with each other and with the prompt."""

import re

from ..data.messages import earlier_reasoning
from ..data.similarity import alike, normalised
from .row_checks import BRANCHES, Row, named, row_check
from .words import words

FAR = 4.0
"""Ratio of lengths, in tokens, above which the model would learn nothing but the length."""
FEWEST_TOKENS = 32
"""Least difference of the lengths, in tokens, for this check."""

_FEWEST_WORDS = 4


@row_check(
    "near-identical",
    "the answers are so similar that there is almost no difference to learn",
    "make the answers more different, or remove the row; gen-pairs drops such pairs (pairs.max_similarity)",
)
def near_identical(row: Row) -> str | None:
    """At least as similar as pairs.max_similarity, but not identical."""
    least = row.context.max_similarity
    if alike(row.text.chosen, row.text.rejected, least):
        return f"the answers are at least {least:.0%} similar"
    return None


@row_check(
    "one-continues-other",
    "one answer is the start of the other, so the model could learn only to continue or to stop",
    "remove the row, or rewrite the end of the shorter answer",
)
def one_continues_other(row: Row) -> str | None:
    """The shorter answer is the start of the longer one, word by word."""
    short, long = sorted((row.text.chosen, row.text.rejected), key=len)
    if not long.startswith(short) or near_identical(row):
        return None
    return f"{'chosen' if long is row.text.chosen else 'rejected'} begins with all of the other answer"


@row_check(
    "far-longer",
    "the chosen answer is many times longer than the rejected one",
    "shorten it, or write a longer rejected answer",
)
def far_longer(row: Row) -> str | None:
    """FAR times the tokens of the rejected one."""
    return _far(len(row.pair.chosen), len(row.pair.rejected))


@row_check(
    "far-shorter",
    "the chosen answer is many times shorter than the rejected one",
    "lengthen it, or shorten the rejected answer",
)
def far_shorter(row: Row) -> str | None:
    """FAR times fewer tokens than the rejected one."""
    return _far(len(row.pair.rejected), len(row.pair.chosen))


@row_check(
    "earlier-reasoning-left-out",
    "the chat template leaves out the reasoning of earlier turns, as it also does in use",
    "nothing to do if the model is used with this template; otherwise remove that reasoning from the row",
)
def earlier_reasoning_left_out(row: Row) -> str | None:
    """Reasoning in a turn of the prompt that is missing from the rendered prompt."""
    reasoning = earlier_reasoning(row.text.prompt)
    if reasoning and reasoning not in row.context.tokenizer.decode(row.pair.prompt.tolist()):
        return f"missing from the rendered prompt: {reasoning[:60]!r}"
    return None


def _far(long: int, short: int) -> str | None:
    return f"{long:,} tokens against {short:,}" if long >= max(FAR * short, short + FEWEST_TOKENS) else None


@row_check(
    "cut",
    "the answer is cut at data.max_length, so the model does not learn how it ends",
    "raise data.max_length, or shorten the answer",
)
def cut(row: Row) -> str | None:
    """The last token is not the end of the turn, in an answer that has one."""
    limit = f"does not end within {row.context.max_length:,} tokens"
    ending = [name for name in BRANCHES if not row.cut_off(name)]
    return named((name, limit if getattr(row.pair, name)[-1] != row.context.end else None) for name in ending)


@row_check(
    "special-token-in-answer",
    "the text contains a special token: it becomes that token, or the model learns to write it out",
    "remove it from the text",
)
def special_token_in_answer(row: Row) -> str | None:
    """The text of a special token in an answer."""
    return named((name, _special(row, getattr(row.text, name))) for name in BRANCHES)


@row_check(
    "special-token-in-prompt",
    "the text contains a special token: it becomes that token, or the model learns to write it out",
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
    """An answer begins with the whole last user turn."""
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
    "fill in the template when making the rows",
)
def unfilled_placeholder(row: Row) -> str | None:
    """{question}, {{ input }} and the like in the prompt."""
    blanks = ((turn["role"], _BLANK.search(turn["content"])) for turn in row.text.prompt)
    return named((role, blank and repr(blank[0])) for role, blank in blanks)
