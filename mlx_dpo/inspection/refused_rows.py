"""What a run refuses or drops: the run's own messages, with the meaning of their codes."""

from ..errors import DpoError
from .defects import ERROR, KINDS, Defect, Kind, defect

_DIFFER = "rejected answers must differ from the chosen ones"
_OTHER = "refused"

KINDS |= {
    "not-json": Kind(ERROR, "the line is not JSON"),
    "not-an-object": Kind(ERROR, "the line is JSON, but not an object"),
    "not-utf-8": Kind(ERROR, "the line is not UTF-8 text"),
    "line-too-long": Kind(ERROR, "the line is longer than any row"),
    "half-character": Kind(ERROR, "an emoji was cut in two"),
    "unpaired": Kind(ERROR, "one answer with a label, not two answers"),
    "written-twice": Kind(ERROR, "the line has one name twice"),
    "other-format": Kind(ERROR, "the row has another format"),
    "missing-prompt": Kind(ERROR, "there is no prompt"),
    "missing-chosen": Kind(ERROR, "there is no chosen answer"),
    "missing-rejected": Kind(ERROR, "there is no rejected answer"),
    "missing-answer": Kind(ERROR, "there is no answer"),
    "empty-prompt": Kind(ERROR, "the prompt, or a turn of it, is empty"),
    "empty-chosen": Kind(ERROR, "the chosen answer is empty"),
    "empty-rejected": Kind(ERROR, "the rejected answer is empty"),
    "empty-answer": Kind(ERROR, "the answer is empty"),
    "empty-system": Kind(ERROR, "the system turn is empty"),
    "bad-turn": Kind(ERROR, "a turn has no role, no content, or two reasonings"),
    "bad-tools": Kind(ERROR, "tools are not as they must be"),
    "not-text": Kind(ERROR, "a turn holds more than text"),
    "left-out": Kind(ERROR, "a column that belongs to the prompt is not in it"),
    "bad-role": Kind(ERROR, "a turn is by nobody known"),
    "wrong-type": Kind(ERROR, "a field is of another type than it must be"),
    "not-one-answer": Kind(ERROR, "an answer is not one assistant turn"),
    "prompt-ends-in-answer": Kind(ERROR, "nobody asks: the last turn is not the user's"),
    "prompt-differs": Kind(ERROR, "prompt and conversations begin differently"),
    "conversations-part": Kind(ERROR, "two prompts in one row"),
    "two-systems": Kind(ERROR, "the row has two system turns that differ"),
    "duplicate-id": Kind(ERROR, "two rows have one id"),
    "prompt-too-long": Kind(
        ERROR,
        "the prompt leaves no room for an answer",
        "raise data.max_length, or shorten or remove these rows",
    ),
    "same-once-cut": Kind(
        ERROR,
        "the answers differ only beyond data.max_length",
        f"raise data.max_length: {_DIFFER} within it",
    ),
    "identical-answers": Kind(ERROR, "there is nothing to prefer", _DIFFER),
    "template-refuses": Kind(ERROR, "the chat template knows no such conversation"),
    "template-endless": Kind(ERROR, "the chat template does not end on this conversation"),
    "template-too-large": Kind(ERROR, "the chat template makes gigabytes of this conversation"),
    "template-changes-prompt": Kind(ERROR, "the prompt changes once it is answered"),
    "template-changes-answer": Kind(ERROR, "the model would see another answer"),
    "template-leaves-out": Kind(ERROR, "the model would not see all of it"),
    "reasoning-off": Kind(ERROR, "answers reason where prompts say not to"),
    "unknown-token": Kind(ERROR, "the model does not know a token of the text"),
    _OTHER: Kind(ERROR, "a run refuses the row"),
}
_OF_ONE_ROW = {
    "same-once-cut": "chosen and rejected are the same as far as data.max_length",
    "identical-answers": "chosen and rejected are the same",
}
"""Said in place of what a run says where no pair of a whole file is left."""


def refused(error: DpoError, where: str) -> Defect:
    """The defect for which a run refuses or drops the row at `where`, in the run's own words."""
    code = error.code if error.code in KINDS else _OTHER
    return defect(where, code, _OF_ONE_ROW.get(code, error.what), KINDS[code].remedy or error.hint)
