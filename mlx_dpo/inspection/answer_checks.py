"""Checks of one answer's text: what a model should not learn to write, or what would give the label away."""

import re

from ..metrics import distinct_n
from .row_checks import AnswerCheck, answer_check
from .words import RUN, words

LEAST_DISTINCT = 0.5
"""Different runs of four words, as a share of all, below which an answer repeats itself."""
FEWEST_RUNS = 24
"""Runs of four words that it takes to say so."""

_FEWEST_WORDS = 4
_SHOWN = 20
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.S)


def _holds(pattern: str, flags: int = 0, *, in_code: bool = True) -> AnswerCheck:
    """A check that shows the first place where `pattern` is found, and what stands around it.

    Args:
        in_code: look into code too, in which much is right that is wrong in prose.
    """
    searched = re.compile(pattern, flags)

    def check(text: str) -> str | None:
        text = text if in_code else _CODE.sub(" ", text)
        match = searched.search(text)
        return match and repr(text[max(0, match.start() - _SHOWN) : match.end() + _SHOWN])

    return check


# UTF-8 that was read as Windows-1252: its second bytes, after the first ones of Latin letters, signs,
# emoji and Cyrillic. First bytes that are letters people write before such signs (ß“, é») are left out.
_SECOND = "[\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]"

answer_check(
    "mojibake",
    "UTF-8 was read as another encoding",
    "make the row again from its source, read as UTF-8",
)(_holds(rf"[ÂÃ]{_SECOND}|â{_SECOND}{_SECOND}|ðŸ{_SECOND}|ï¿½|(?:[ÐÑ]{_SECOND}){{2}}"))

answer_check(
    "replacement-character",
    "a character was lost when the text was decoded",
    "make the row again from its source, read as UTF-8",
)(_holds("\ufffd"))

answer_check(
    "control-characters",
    "signs that nobody sees become tokens that are learnt",
    "remove them from the text",
)(_holds("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff]"))

answer_check(
    "carriage-return",
    "line ends of Windows are other tokens than those that models write",
    r"write \n for \r\n in all answers",
)(_holds("\r"))

answer_check(
    "double-escaped",
    "line ends or characters are spelt out, as in JSON within JSON",
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
    "the answer goes on to speak for others, or holds marks of another chat format",
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
    "thoughts before the answer were kept in it",
    "remove everything up to the closing tag",
)(_holds(r"</?(?:think|thinking|reasoning|scratchpad)>", re.I))

answer_check(
    "placeholder",
    "the answer is what tables and programs say where there is none",
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
    "the chosen answer declines, and the model would learn to decline",
    "keep the row only if this is to be declined",
    ("chosen",),
)(_holds(_DECLINES, re.I))

answer_check(
    "mentions-being-an-ai",
    "the chosen answer speaks of itself as a model",
    "keep the row only if the model is to say so",
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
    "the answer repeats itself: chosen, it teaches that; rejected, little else tells the pair apart",
    "cut the answer before it repeats itself, or remove the row",
)
def repeats(text: str) -> str | None:
    """Fewer than LEAST_DISTINCT of its runs of four words are different."""
    found = words(text)
    share = distinct_n(found, RUN)
    if share is None or share >= LEAST_DISTINCT or len(found) - RUN + 1 < FEWEST_RUNS:
        return None
    return f"only {share:.0%} of its runs of {RUN} words are different"


_SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’»)\]*_]*(?:\s|\Z)")
_NO_SENTENCE = re.compile(r"\s*(?:[-*•+|>]|#+|\d+[.)])\s")
_OPEN_END = re.compile(r"(?:[^\W_]|[,;(–—-])\Z")


@answer_check(
    "ends-mid-sentence",
    "the answer was cut off: chosen, it teaches to stop there; rejected, its end gives the label away",
    "let the answer end, or mark it as cut off (data/README.md): then no end is scored",
    of_ends=True,
)
def ends_mid_sentence(text: str) -> str | None:
    """The answer has sentences, and its last line ends in the middle of one.

    Lists, titles, links, names (a last word with a capital) and options of commands are left aside.
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
    "let the answer end, or mark it as cut off (data/README.md): then no end is scored",
    of_ends=True,
)
def open_code_block(text: str) -> str | None:
    """An odd number of fences."""
    fences = len(re.findall(r"^[ \t]*```", text, re.M))
    return f"{fences} of the lines that open or close code" if fences % 2 else None
