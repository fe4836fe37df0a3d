"""What a run refuses or drops, by kind: the run's own messages, given a code."""

import re
from typing import NamedTuple

from ..errors import DpoError
from .defects import ERROR, KINDS, Defect, Kind, defect


class _Refusal(NamedTuple):
    """A kind, and how the messages of the run begin that are of it; `what`: said in place of the message."""

    code: str
    says: str
    meaning: str
    remedy: str = ""
    what: str = ""


_DIFFER = "rejected answers must differ from the chosen ones"

# `says` is matched with the start of "what\nhint"; the first that fits gives the code.
_REFUSALS = (
    _Refusal("not-json", "not JSON", "the line is not JSON"),
    _Refusal("not-an-object", "is a JSON ", "the line is JSON, but not an object"),
    _Refusal("not-utf-8", "is not UTF-8", "the line is not UTF-8 text"),
    _Refusal("half-character", "holds half of a character", "an emoji was cut in two"),
    _Refusal("unpaired", "is an unpaired row", "one answer with a label, not two answers"),
    _Refusal("written-twice", r"'.*' is written twice", "the line has one name twice"),
    _Refusal(
        "other-format",
        r"is (a (conversation|prompt|pair|battle|row)|two answers) |.* (is a transcript|are transcripts) ",
        "the row has another format",
    ),
    _Refusal("missing-prompt", "'prompt' is missing", "there is no prompt"),
    _Refusal("missing-chosen", "'chosen' is missing", "there is no chosen answer"),
    _Refusal("missing-rejected", "'rejected' is missing", "there is no rejected answer"),
    _Refusal("empty-prompt", "'prompt' is empty", "the prompt, or a turn of it, is empty"),
    _Refusal("empty-chosen", "'chosen' is empty", "the chosen answer is empty"),
    _Refusal("empty-rejected", "'rejected' is empty", "the rejected answer is empty"),
    _Refusal("empty-system", "'system' is empty", "the system turn is empty"),
    _Refusal("bad-turn", r"'\w+' has (a turn without|turns of)", "a turn has no role or no content"),
    _Refusal(
        "bad-tools",
        r"'tools' must|'\w+' has (a tool call|tool_calls|a function_call)",
        "tools are not as they must be",
    ),
    _Refusal("not-text", r"'\w+' has (a (content|text) part|\w+ in a turn)", "a turn holds more than text"),
    _Refusal("left-out", r"'\w+' is beside the prompt", "a column that belongs to the prompt is not in it"),
    _Refusal("bad-role", r"'\w+' has the role", "a turn is by nobody known"),
    _Refusal("wrong-type", r"'\w+' must be (text|an? |true)", "a field is of another type than it must be"),
    _Refusal("not-one-answer", r"'\w+' must be one", "an answer is not one assistant turn"),
    _Refusal("prompt-ends-in-answer", "the prompt must end", "nobody asks: the last turn is not the user's"),
    _Refusal("prompt-differs", "'prompt' is not what", "prompt and conversations begin differently"),
    _Refusal("conversations-part", "chosen and rejected differ before", "two prompts in one row"),
    _Refusal("two-systems", "'system' and the prompt's", "the row has two system turns that differ"),
    _Refusal("duplicate-id", "the id .* stands at", "two rows have one id"),
    _Refusal(
        "prompt-too-long",
        "the prompt has [0-9,]+ tokens",
        "the prompt leaves no room for an answer",
        "raise data.max_length, or shorten or remove these rows",
    ),
    _Refusal(
        "same-once-cut",
        r"no pair is left.*\n.*within data\.max_length",
        "the answers differ only beyond data.max_length",
        f"raise data.max_length: {_DIFFER} within it",
        "chosen and rejected are the same as far as data.max_length",
    ),
    _Refusal(
        "identical-answers",
        "no pair is left",
        "there is nothing to prefer",
        _DIFFER,
        "chosen and rejected are the same",
    ),
    _Refusal("template-refuses", "the chat template refuses", "the chat template knows no such conversation"),
    _Refusal(
        "template-changes-prompt", "the chat template renders", "the prompt changes once it is answered"
    ),
    _Refusal("template-changes-answer", "the chat template changes", "the model would see another answer"),
    _Refusal("template-leaves-out", "the chat template leaves out", "the model would not see all of it"),
    _Refusal("reasoning-off", "the answer reasons", "answers reason where prompts say not to"),
    _Refusal("refused", "", "a run refuses the row"),
)
KINDS.update({r.code: Kind(ERROR, r.meaning, r.remedy) for r in _REFUSALS})


def refused(error: DpoError, where: str) -> Defect:
    """The defect for which a run refuses or drops the row at `where`, in the run's own words."""
    text = f"{error.what}\n{error.hint}"
    kind = next(r for r in _REFUSALS if re.match(r.says, text))
    return defect(where, kind.code, kind.what or error.what, kind.remedy or error.hint)
