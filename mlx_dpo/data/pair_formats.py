"""Formats with one pair a row, under other names or in another shape."""

import os
import re
from typing import Any

from ..errors import DpoError
from .format_registry import (
    ANY,
    CONVERSATION,
    INTEGER,
    LIST,
    OBJECT,
    TEXT,
    TURNS,
    NoPairError,
    Row,
    as_answer,
    as_turns,
    joined,
    only_one,
    renamed,
    row_format,
    text_in,
)
from .transcripts import is_transcript

TIE = "a tie"


@row_format(
    "TL;DR comparisons", {"info": OBJECT, "summaries": LIST, "choice": INTEGER}, "worker batch split extra"
)
def tldr(row: Row) -> list[Row]:
    """Two summaries of a post, as in openai/summarize_from_feedback; `choice` is the better one's number."""
    info, summaries, choice = row["info"], row["summaries"], row["choice"]
    texts = [one.get("text") if isinstance(one, dict) else one for one in summaries]
    if len(texts) != 2 or choice not in (0, 1):
        raise NoPairError("not two summaries with a choice of 0 or 1")
    chosen, rejected = texts if choice == 0 else texts[::-1]
    return [{"prompt": summarise(info), "chosen": chosen, "rejected": rejected}]


def summarise(info: dict[str, Any]) -> Any:
    """The prompt for a summary of a Reddit post, or of a news article (algorithm reference, 6.3).

    Raises:
        NoPairError: there is nothing to sum up.
    """
    if not isinstance(info.get("post"), str) or not info["post"].strip():
        if not info.get("article"):
            raise NoPairError("neither a post nor an article")
        return joined(f"TITLE: {info.get('title') or ''}".strip(), info["article"], "TL;DR:")
    post = re.sub(r"\n{2,}", "\n", info["post"].strip())
    subreddit = f"SUBREDDIT: r/{info['subreddit']}" if info.get("subreddit") else ""
    return joined(subreddit, f"TITLE: {info.get('title') or ''}".strip(), f"POST: {post}", "TL;DR:")


def _conversations(row: Row) -> list[Row]:
    return [{"chosen": row["chosen"], "rejected": row["rejected"]}]


_WHOLE = {"chosen": CONVERSATION, "rejected": CONVERSATION}
for _name, _columns, _uses in (
    ("UltraFeedback binarized", {"prompt_id": TEXT, "messages": TURNS}, "prompt"),
    ("UltraFeedback binarized by Argilla", {"chosen-rating": ANY, "rejected-rating": ANY}, "prompt"),
    ("Capybara conversations", {"conversation": LIST}, "prompt"),
):
    row_format(_name, {**_WHOLE, **_columns}, _uses)(_conversations)


@row_format("ShareGPT conversations", _WHOLE, test=lambda row: "from" in row["chosen"][0])
def sharegpt_whole(row: Row) -> list[Row]:
    """Two whole conversations with turns of {from, value}."""
    return [{name: as_turns(row[name]) for name in ("chosen", "rejected")}]


@row_format("ShareGPT pairs", {"conversations": TURNS, "chosen": ANY, "rejected": ANY})
def sharegpt(row: Row) -> list[Row]:
    """Turns of {from, value} and two answers, as LLaMA-Factory writes them."""
    return [{"prompt": as_turns(row["conversations"]), **_answers(row)}]


def _answers(row: Row) -> Row:
    return {name: as_answer(row[name]) for name in ("chosen", "rejected")}


def _is_one_answer(value: Any) -> bool:
    return not (isinstance(value, list) and len(value) > 1)


@row_format(
    "axolotl pairs",
    {"messages": TURNS, "chosen": ANY, "rejected": ANY},
    test=lambda row: not row.get("prompt") and all(map(_is_one_answer, (row["chosen"], row["rejected"]))),
)
def axolotl(row: Row) -> list[Row]:
    """`messages` are the prompt; each answer is a message or a text."""
    return [{"prompt": as_turns(row["messages"]), **_answers(row)}]


@row_format(
    "ms-swift pairs",
    {"messages": TURNS, "rejected_response": TEXT},
    names={"rejected": "rejected_response"},
)
def ms_swift(row: Row) -> list[Row]:
    """The last turn of `messages` is the chosen answer."""
    *prompt, chosen = as_turns(row["messages"])
    return [{"prompt": prompt, "chosen": [chosen], "rejected": row["rejected_response"]}]


@row_format(
    "OpenAI preferences",
    {"input": OBJECT, "preferred_output": LIST, "non_preferred_output": LIST},
    names={"prompt": "input.messages", "chosen": "preferred_output", "rejected": "non_preferred_output"},
)
def openai(row: Row) -> list[Row]:
    """The format of OpenAI's preference fine-tuning."""
    asked = row["input"]
    own = {"prompt": asked.get("messages"), "tools": asked.get("tools")}
    return [{**own, "chosen": row["preferred_output"], "rejected": row["non_preferred_output"]}]


@row_format(
    "distilabel Orca pairs",
    {"input": TEXT, "chosen": TEXT, "rejected": TEXT, "status": ANY},
    test=lambda row: "prompt" not in row and "question" not in row,
    names={"prompt": "input"},
)
def orca(row: Row) -> list[Row]:
    """As in argilla/distilabel-intel-orca-dpo-pairs; ties are left out."""
    if row["status"] == "tie":
        raise NoPairError(TIE)
    return [{"prompt": row["input"], "chosen": row["chosen"], "rejected": row["rejected"]}]


@row_format(
    "instructions with two answers",
    {"instruction": TEXT, "chosen": ANY, "rejected": ANY},
    "input history",
    test=lambda row: not row.get("prompt") and not row.get("question"),
    names={"prompt": "instruction"},
)
def instruction(row: Row) -> list[Row]:
    """Alpaca rows with two answers, as LLaMA-Factory reads them; `history` has earlier turns."""
    return [{"prompt": asked(row), **_answers(row)}]


def asked(row: Row) -> Any:
    """The prompt of an Alpaca row: `instruction` and `input`, after the turns in `history`.

    Raises:
        DpoError: `history` has another form than [[question, answer], ...].
    """
    text, history = joined(row["instruction"], row.get("input")), row.get("history")
    if not history:
        return text
    exchanges = history if isinstance(history, list) else [history]
    if not all(isinstance(exchange, list) and len(exchange) == 2 for exchange in exchanges):
        hint = 'write it as [["question", "answer"], ...], or write all turns as messages'
        raise DpoError("'history' is not a list of questions with answers", hint=hint, code="wrong-type")
    roles = ("user", "assistant")
    turns = [
        {"role": role, "content": said}
        for exchange in exchanges
        for role, said in zip(roles, exchange, strict=True)
    ]
    return [*turns, {"role": "user", "content": text}]


_ASKED = ("instruction", "prompt", "question")


@row_format(
    "pairs with chosen_response and rejected_response",
    {"chosen_response": ANY, "rejected_response": ANY},
    "instruction prompt question input",
    test=lambda row: text_in(row, (*_ASKED, "input")) is not None,
    names={"chosen": "chosen_response", "rejected": "rejected_response"},
)
def responses(row: Row) -> list[Row]:
    """As in argilla/distilabel-math-preference-dpo and the older Argilla UltraFeedback."""
    prompt = joined(only_one(row, _ASKED), row.get("input"))
    return [{"prompt": prompt, "chosen": row["chosen_response"], "rejected": row["rejected_response"]}]


renamed("Stack Exchange pairs", {"prompt": "question", "chosen": "response_j", "rejected": "response_k"})

_PROMPT_NAMES = re.compile(
    "prompt|question|query|instruction|input|context|message|conversation|dialog|user|human|problem|request"
    "|task|post|history|info|text|document",
    re.IGNORECASE,
)
"""Parts of the names of columns that may hold a prompt."""


def _may_have_a_prompt(row: Row) -> bool:
    """Whether a column beside the answers may hold the prompt, or a part of it."""
    return any(
        isinstance(value, (str, list, dict)) and value and _PROMPT_NAMES.search(name)
        for name, value in row.items()
    )


@row_format(
    "pairs without a prompt",
    {"chosen": TEXT, "rejected": TEXT},
    test=lambda row: (
        not _may_have_a_prompt(row) and not (is_transcript(row["chosen"]) or is_transcript(row["rejected"]))
    ),
    note="the prompt is the text that chosen and rejected begin with; check it with mlx-dpo inspect",
)
def implicit(row: Row) -> list[Row]:
    """The words that both texts begin with are the prompt, as in TRL's implicit-prompt form."""
    chosen, rejected = row["chosen"], row["rejected"]
    same = os.path.commonprefix([chosen, rejected])  # noqa: RUF071  (it is meant character by character)
    end = re.match(r"(?:.*\s)?", same, re.DOTALL).end()
    if not chosen[:end].strip():
        return [{"chosen": chosen, "rejected": rejected}]  # our own form says that the prompt is missing
    return [{"prompt": chosen[:end], "chosen": chosen[end:], "rejected": rejected[end:]}]
