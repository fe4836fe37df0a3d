"""Rows that a run refuses or drops: the run's messages, with the meaning of their codes."""

from ..errors import DpoError
from .defects import ERROR, KINDS, Defect, Kind, defect

_DIFFER = "rejected answers must differ from the chosen ones"
_OTHER = "refused"

KINDS |= {
    "not-json": Kind(ERROR, "the line is not JSON"),
    "not-an-object": Kind(ERROR, "the line is JSON, but not an object"),
    "not-utf-8": Kind(ERROR, "the line is not UTF-8 text"),
    "line-too-long": Kind(ERROR, "the row is longer than any may be"),
    "bad-cells": Kind(ERROR, "a row of the table does not have a cell for each column"),
    "half-character": Kind(ERROR, "a character such as an emoji was cut in half"),
    "unpaired": Kind(ERROR, "the row has one answer with a label, not two answers"),
    "written-twice": Kind(ERROR, "the line has the same field twice"),
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
    "bad-turn": Kind(ERROR, "a turn has no role, no content, or two different reasonings"),
    "bad-tools": Kind(ERROR, "the tools are not valid tool definitions"),
    "not-text": Kind(ERROR, "a turn contains more than text"),
    "left-out": Kind(ERROR, "a column that belongs to the prompt would not be used"),
    "bad-role": Kind(ERROR, "a turn has an unknown role"),
    "wrong-type": Kind(ERROR, "a field has the wrong type"),
    "not-one-answer": Kind(ERROR, "an answer is not one assistant turn"),
    "prompt-ends-in-answer": Kind(ERROR, "the prompt does not end with a user turn"),
    "prompt-differs": Kind(ERROR, "the prompt and the conversations begin differently"),
    "conversations-part": Kind(ERROR, "the two conversations have different prompts"),
    "two-systems": Kind(ERROR, "the row has two system turns that differ"),
    "duplicate-id": Kind(ERROR, "two rows have the same id"),
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
    "identical-answers": Kind(ERROR, "the two answers are identical", _DIFFER),
    "template-refuses": Kind(ERROR, "the chat template refuses this conversation"),
    "template-endless": Kind(ERROR, "the chat template never finishes with this conversation"),
    "template-too-large": Kind(ERROR, "the chat template renders this conversation as gigabytes of text"),
    "template-changes-prompt": Kind(
        ERROR, "the chat template renders the prompt differently when an answer follows"
    ),
    "template-changes-answer": Kind(ERROR, "the chat template changes the answer"),
    "template-leaves-out": Kind(ERROR, "the chat template leaves out a part of the row"),
    "reasoning-off": Kind(ERROR, "the answers have reasoning although the prompts turn it off"),
    "unknown-token": Kind(ERROR, "the text has a token that the model does not know"),
    _OTHER: Kind(ERROR, "a run refuses the row"),
}
_OF_ONE_ROW = {
    "same-once-cut": "chosen and rejected are the same up to data.max_length",
    "identical-answers": "chosen and rejected are the same",
}
"""Messages about one row; the run's message is about a file in which no pair is left."""


def refused(error: DpoError, where: str) -> Defect:
    """The defect for which a run refuses or drops the row at `where`, with the run's message."""
    code = error.code if error.code in KINDS else _OTHER
    return defect(where, code, _OF_ONE_ROW.get(code, error.what), KINDS[code].remedy or error.hint)
