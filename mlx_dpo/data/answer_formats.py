"""Formats with one answer a row, for gen-pairs and sft."""

from .format_registry import ANY, CONVERSATION, TEXT, Row, as_turns, joined, row_format
from .pair_formats import asked


def _is_single(row: Row) -> bool:
    return not {"chosen", "rejected", "label", "kto_tag", "prompt", "answer", "messages"} & row.keys()


@row_format("Alpaca rows", {"instruction": TEXT, "output": ANY}, "input history", test=_is_single)
def alpaca(row: Row) -> list[Row]:
    """An instruction, with an input or without, and the output."""
    return [{"prompt": asked(row), "answer": row["output"]}]


@row_format(
    "ShareGPT conversations with one answer",
    {"conversations": CONVERSATION},
    test=_is_single,
    names={"messages": "conversations"},
)
def sharegpt(row: Row) -> list[Row]:
    """Turns of {from, value}; the last one is the answer."""
    return [{"messages": as_turns(row["conversations"])}]


@row_format(
    "instructions with a response",
    {"instruction": TEXT, "response": TEXT},
    "context input",
    test=_is_single,
    names={"prompt": "instruction", "answer": "response"},
)
def dolly(row: Row) -> list[Row]:
    """As in databricks-dolly-15k; `context` and `input` are put after the instruction."""
    prompt = joined(row["instruction"], row.get("context"), row.get("input"))
    return [{"prompt": prompt, "answer": row["response"]}]
