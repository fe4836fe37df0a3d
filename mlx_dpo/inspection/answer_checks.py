"""Checks of one answer's text: what a model should not learn to write, or what reveals the label."""

import re

from ..console import plural
from ..metrics import distinct_n
from .row_checks import AnswerCheck, answer_check
from .words import RUN, words

LEAST_DISTINCT = 0.5
"""Distinct runs of four words, as a share of all, below which an answer repeats itself."""
FEWEST_RUNS = 24
"""Least number of runs of four words for this check."""

_FEWEST_WORDS = 4
_SHOWN = 20
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.S)


def _holds(pattern: str, flags: int = 0, *, in_code: bool = True) -> AnswerCheck:
    """A check that shows the first match of `pattern`, with the text around it.

    Args:
        in_code: search code too; much that is wrong in prose is right in code.
    """
    searched = re.compile(pattern, flags)

    def check(text: str) -> str | None:
        text = text if in_code else _CODE.sub(" ", text)
        match = searched.search(text)
        return match and repr(text[max(0, match.start() - _SHOWN) : match.end() + _SHOWN])

    return check


# UTF-8 that was read as Windows-1252: its second bytes, after first bytes of Latin letters, signs, emoji and
# Cyrillic. First bytes that are letters which people write before such signs (ß“, é») are left out.
_SECOND = "[\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]"

answer_check(
    "mojibake",
    "UTF-8 text was read in another encoding",
    "read the source as UTF-8 and make the row again",
)(_holds(rf"[ÂÃ]{_SECOND}|â{_SECOND}{_SECOND}|ðŸ{_SECOND}|ï¿½|(?:[ÐÑ]{_SECOND}){{2}}"))

answer_check(
    "replacement-character",
    "a character was lost when the text was decoded",
    "read the source as UTF-8 and make the row again",
)(_holds("\ufffd"))

answer_check(
    "control-characters",
    "invisible characters become tokens that the model learns",
    "remove them from the text",
)(_holds("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff]"))

answer_check(
    "carriage-return",
    "Windows line ends are not the tokens that models write",
    r"replace \r\n by \n in all answers",
)(_holds("\r"))

answer_check(
    "double-escaped",
    "line ends or characters are written as escapes, as in JSON within JSON",
    "decode the text once more",
)(_holds(r'\\n(?=\\n|[A-Z0-9*-])|\\u[0-9a-fA-F]{4}|\\"', in_code=False))

_TAGS = "p|br|div|span|li|ul|ol|b|i|u|strong|em|h[1-6]|table|tr|td|th|a|img|font|blockquote"

answer_check(
    "markup-left-over",
    "HTML was not turned into text",
    "turn tags and entities into plain text",
)(_holds(rf"</?(?:{_TAGS})(?:\s[^<>]*)?/?>|&(?:nbsp|amp|lt|gt|quot|#\d+);", re.I, in_code=False))

answer_check(
    "role-header-in-answer",
    "the answer continues with other speakers' turns, or contains markers of another chat format",
    "cut the answer where its first turn ends",
)(
    _holds(
        r"^[ \t]*(?:Human|User|Assistant)[ \t]*:|^#{2,}[ \t]*(?:Instruction|Response|Input|Human|Assistant)\b"
        r"|\[/?INST\]|<</?SYS>>|<\|(?:user|assistant|system|im_start|im_end|eot_id|end)\|>",
        re.M,
        in_code=False,
    )
)

answer_check(
    "reasoning-left-over",
    "reasoning before the answer was left in the text",
    "remove everything up to the closing tag",
)(_holds(r"</?(?:think|thinking|reasoning|scratchpad)>", re.I))

answer_check(
    "placeholder",
    "the answer is only a placeholder for a missing value",
    "write the answer, or remove the row",
)(_holds(r"\A\W*(?:nan|null|none|n/?a|todo|tbd|undefined|no answer|lorem ipsum\b.*)\W*\Z", re.I | re.S))

answer_check(
    "no-words",
    "the answer has no letter and no digit",
    "write the answer, or remove the row",
)(_holds(r"\A[\W_]*\Z"))

_DECLINES = (
    r"\A\W*(?:(?:I['’]m|I am)(?: very| really| so)? (?:sorry|afraid)[,.]? (?:but |that )?"
    r"|(?:sorry|unfortunately),? (?:but )?)?"
    r"I(?: can['’]?t| can ?not| won['’]t| will not|['’]m (?:unable|not able) to| am (?:unable|not able) to) "
    r"(?:help(?! but| \w+ing)|assist|answer|provide|do|comply|fulfil|discuss|create|write|give|support|engage"
    r"|share|offer)"
)

answer_check(
    "refusal",
    "the chosen answer is a refusal, and the model would learn to refuse",
    "keep the row only if the model should refuse here",
    ("chosen",),
)(_holds(_DECLINES, re.I))

answer_check(
    "mentions-being-an-ai",
    "the chosen answer says that it comes from an AI",
    "keep the row only if the model should say so",
    ("chosen",),
)(
    _holds(
        r"\bas an? (?:AI|artificial intelligence|(?:large )?language model)\b"
        r"|\bI(?:['’]m| am) (?:just |only )?an? (?:AI|(?:large )?language model|virtual assistant)\b",
        re.I,
    )
)


@answer_check(
    "repeats",
    "the answer repeats itself: a chosen one teaches repetition, a rejected one is recognised by it",
    "cut the answer before it repeats itself, or remove the row",
)
def repeats(text: str) -> str | None:
    """Fewer than LEAST_DISTINCT of the runs of four words are distinct."""
    found = words(text)
    share = distinct_n(found, RUN)
    if share is None or share >= LEAST_DISTINCT or len(found) - RUN + 1 < FEWEST_RUNS:
        return None
    return f"only {share:.0%} of its {RUN}-word sequences are distinct"


_SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’»)\]*_]*(?:\s|\Z)")
_NO_SENTENCE = re.compile(r"\s*(?:[-*•+|>]|#+|\d+[.)])\s")
_OPEN_END = re.compile(r"(?:[^\W_]|[,;(–—-])\Z")


@answer_check(
    "ends-mid-sentence",
    "the answer was cut off: a chosen one teaches to stop early, a rejected one is recognised by it",
    "complete the answer, or mark it as cut off (data/README.md), so that no end is scored",
    of_ends=True,
)
def ends_mid_sentence(text: str) -> str | None:
    """The answer has sentences, and its last line ends in the middle of one.

    Lists, titles, links, names (a last word with a capital) and command options are ignored.
    """
    last = text.rpartition("\n")[2]
    ending = last.split()
    if len(ending) < _FEWEST_WORDS or _NO_SENTENCE.match(last) or not _SENTENCE_END.search(text):
        return None
    if ending[-1][0].isupper() or re.search(r"[/@]", ending[-1]) or re.search(r"(?:^|\s)--?\w", last):
        return None
    if not _OPEN_END.search(last):
        return None
    return f"ends with {last[-2 * _SHOWN :]!r}"


@answer_check(
    "open-code-block",
    "a code block begins and does not end: the answer was cut off",
    "complete the answer, or mark it as cut off (data/README.md), so that no end is scored",
    of_ends=True,
)
def open_code_block(text: str) -> str | None:
    """An odd number of fences."""
    fences = len(re.findall(r"^[ \t]*```", text, re.M))
    return f"{plural(fences, 'line')} with a code fence" if fences % 2 else None
